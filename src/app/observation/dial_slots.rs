//! How many servers that fail, or never answered, are dialled at the same time.
//!
//! Each attempt to reach a silent server lasts for its whole deadline. So when a data centre is silent, its servers would
//! use all connection attempts of this process. Routine attempts, first attempts to reach servers that have become silent,
//! and opinions about silent servers get a part of them each, in which the places of the servers take turns. The rest is
//! for servers in quarantine and for those that answer or refuse at once: they need no slot.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::domain::intent::Origin;

/// The most routine attempts at a time: to servers that are known to fail, and to those that have not answered yet.
pub(super) const ROUTINE_DIALS: usize = 160;
/// The most first attempts at a time, each to a server that has just become silent.
pub(super) const FIRST_DIALS: usize = 128;
/// The most attempts at a time for opinions, each to a server that is known to be silent.
pub(super) const OPINION_DIALS: usize = 160;
/// The attempts that are left for servers in quarantine, and for those that answer or refuse at once.
const RESERVED_DIALS: usize = 64;
/// All attempts of this process at a time.
pub const ALL_DIALS: usize = ROUTINE_DIALS + FIRST_DIALS + OPINION_DIALS + RESERVED_DIALS;

/// Servers that share their turns: those of one origin in one data centre.
pub(super) type Place = (Origin, String);

#[derive(Debug)]
struct Slots<P: Ord + Clone> {
    used: usize,
    used_by: BTreeMap<P, usize>,
    waiting: BTreeMap<P, VecDeque<oneshot::Sender<DialSlot<P>>>>,
}

impl<P: Ord + Clone> Slots<P> {
    /// Takes the next waiting attempt: of the place that uses the fewest slots.
    fn next(&mut self) -> Option<(P, oneshot::Sender<DialSlot<P>>)> {
        let used_by = &self.used_by;
        let place = self
            .waiting
            .keys()
            .min_by_key(|place| used_by.get(place).copied().unwrap_or_default())?
            .clone();
        let queue = self.waiting.get_mut(&place)?;
        let waiting = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&place);
        }
        Some((place, waiting?))
    }

    fn take(&mut self, place: &P) {
        self.used += 1;
        *self.used_by.entry(place.clone()).or_default() += 1;
    }
}

/// The slots of all attempts of one kind.
#[derive(Debug)]
pub(super) struct DialSlots<P: Ord + Clone = Place> {
    limit: usize,
    slots: Mutex<Slots<P>>,
}

/// The right to one attempt.
#[derive(Debug)]
pub(super) struct DialSlot<P: Ord + Clone = Place> {
    slots: Arc<DialSlots<P>>,
    place: P,
    is_granted_again: bool,
}

impl<P: Ord + Clone> DialSlots<P> {
    /// So many slots.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            slots: Mutex::new(Slots {
                used: 0,
                used_by: BTreeMap::new(),
                waiting: BTreeMap::new(),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Slots<P>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot. When the wait is cancelled, its turn passes to the next one.
    pub(super) async fn acquire(self: &Arc<Self>, place: P) -> Option<DialSlot<P>> {
        let (sender, granted) = oneshot::channel();
        self.lock().waiting.entry(place).or_default().push_back(sender);
        self.grant();
        // The sender is dropped only with all slots.
        granted.await.ok()
    }

    fn grant(self: &Arc<Self>) {
        loop {
            let mut slots = self.lock();
            if slots.used >= self.limit {
                return;
            }
            let Some((place, waiting)) = slots.next() else { return };
            slots.take(&place);
            drop(slots);
            let slot = DialSlot {
                slots: Arc::clone(self),
                place,
                is_granted_again: false,
            };
            // When its wait was cancelled, the slot comes back, and this loop grants it again.
            if let Err(mut unused) = waiting.send(slot) {
                unused.is_granted_again = true;
            }
        }
    }
}

impl<P: Ord + Clone> DialSlot<P> {
    fn give_up(&mut self) {
        let mut slots = self.slots.lock();
        slots.used = slots.used.saturating_sub(1);
        if let Some(used) = slots.used_by.get_mut(&self.place) {
            *used = used.saturating_sub(1);
            if *used == 0 {
                slots.used_by.remove(&self.place);
            }
        }
    }
}

impl<P: Ord + Clone> Drop for DialSlot<P> {
    fn drop(&mut self) {
        self.give_up();
        if !self.is_granted_again {
            self.slots.grant();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn place(name: &str) -> Place {
        (Origin::Api, name.to_owned())
    }

    #[tokio::test]
    async fn a_silent_place_does_not_keep_another_one_waiting() {
        let slots = DialSlots::new(2);
        let first = slots.acquire(place("silent")).await;
        let _second = slots.acquire(place("silent")).await;
        let mut more: Vec<_> = (0..3).map(|_| Box::pin(slots.acquire(place("silent")))).collect();
        assert!(more.iter_mut().all(|more| more.now_or_never().is_none()));
        let mut other = Box::pin(slots.acquire(place("well")));
        assert!((&mut other).now_or_never().is_none());
        drop(first);
        let other = other.now_or_never().flatten();
        assert!(other.is_some(), "it came last and is the first of its place");
        assert!(more.iter_mut().all(|more| more.now_or_never().is_none()));
        drop(other);
        assert!(more.first_mut().unwrap().now_or_never().flatten().is_some());
    }

    #[tokio::test]
    async fn a_cancelled_wait_uses_no_slot() {
        let slots = DialSlots::new(1);
        let first = slots.acquire(place("a")).await;
        let mut cancelled = Box::pin(slots.acquire(place("a")));
        assert!((&mut cancelled).now_or_never().is_none());
        drop(cancelled);
        let mut waiting = Box::pin(slots.acquire(place("a")));
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        assert!(waiting.now_or_never().flatten().is_some());
        assert!(
            slots.acquire(place("b")).now_or_never().flatten().is_some(),
            "all slots are free"
        );
    }
}
