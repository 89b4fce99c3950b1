//! A member registers itself in the backend every half second: that renews its leadership, shows the members to each other, and tells each
//! of them that the state has changed.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::app::ports::{Leadership, Registered, Registration, RegistrationError, TAKE_OVER_SECONDS};

use super::{SharedMember, peer};

/// The pause between two registrations.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long one of them may take.
const DEADLINE: Duration = Duration::from_millis(1500);
/// For so long after the beginning of a registration that succeeded, a member believes in what it found. It is shorter than the time
/// after which another member may lead, [`TAKE_OVER_SECONDS`].
pub(super) const LEASE: Duration = Duration::from_secs(2);
const _: () = assert!(LEASE.as_secs() < TAKE_OVER_SECONDS as u64);
/// For so long a member that gave up the leadership leaves it to another one.
pub(super) const ABSTENTION: Duration = Duration::from_secs(3);

/// Runs until `stop`, or until the backend has taken no registration for `exit_after`.
pub(super) async fn run(member: &SharedMember, exit_after: Option<Duration>, stop: CancellationToken) {
    let started = Instant::now();
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let turn = member.registering.lock().await;
        let lease_ends = member.own().registered.map(|at| at + LEASE);
        let registering = tokio::time::timeout(DEADLINE, member.register());
        tokio::pin!(registering);
        let outcome = tokio::select! {
            outcome = &mut registering => outcome,
            () = sleep_until(lease_ends) => {
                member.step_down();
                registering.await
            }
        };
        match outcome {
            Ok(Ok(found)) => member.registered(begun, &found).await,
            Ok(Err(error)) => member.failed(&error.to_string()),
            Err(_) => member.failed(&format!("no answer within {} ms", DEADLINE.as_millis())),
        }
        drop(turn);
        let silent_for = member.own().registered.unwrap_or(started).elapsed();
        if exit_after.is_some_and(|limit| silent_for > limit) {
            member.step_down();
            member.give_up(silent_for);
            return;
        }
        // The lease may end while this member waits for the next time.
        let lease_ends = member.own().registered.map(|at| at + LEASE);
        let next = begun + INTERVAL;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep_until(next) => {}
            () = sleep_until(lease_ends.filter(|ends| *ends < next)) => member.step_down(),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl SharedMember {
    async fn register(&self) -> Result<Registered, RegistrationError> {
        let (me, abstains) = {
            let own = self.own();
            let abstains = own.abstains_until.is_some_and(|until| Instant::now() < until);
            (own.registration.clone(), abstains)
        };
        self.store.register(&me, !abstains).await
    }

    /// Takes over what was found, and reads the state when it has changed.
    async fn registered(&self, begun: Instant, found: &Registered) {
        let me = {
            let mut own = self.own();
            if own.failure.take().is_some() {
                info!("the backend answers again: {}", self.store.name());
            }
            own.registered = Some(begun);
            own.members.clone_from(&found.members);
            own.registration.clone()
        };
        // A leader decides on a state that has everything of its predecessor: see `barrier`.
        if let Err(error) = self.state.catch_up(found.version).await {
            warn!("failed to read the state, will retry: {error}");
        }
        let leader = found.leader.as_ref().and_then(|(name, token)| {
            let is_leader = |member: &&Registration| member.name == *name && member.token == *token;
            found.members.iter().find(is_leader)
        });
        let is_leader = leader.is_some_and(|leader| leader.token == me.token) && begun.elapsed() < LEASE;
        self.set_leadership(&Leadership {
            term: found.term,
            is_leader,
            leader: leader.map(peer),
        });
    }

    fn failed(&self, why: &str) {
        let mut own = self.own();
        let why = format!("the backend takes no writes: {why}");
        if own.failure.as_ref() != Some(&why) {
            warn!("failed to register this member, will retry: {why}");
        }
        own.failure = Some(why);
    }

    /// This member does not lead any more, or cannot know it.
    pub(super) fn step_down(&self) {
        let present = self.leadership.borrow().clone();
        if present.leader.is_some() || present.is_leader {
            self.set_leadership(&Leadership {
                is_leader: false,
                leader: None,
                ..present
            });
        }
    }

    fn set_leadership(&self, now: &Leadership) {
        self.leadership.send_if_modified(|present| {
            let is_other = present != now;
            if is_other {
                present.clone_from(now);
            }
            is_other
        });
    }

    fn give_up(&self, silent_for: Duration) {
        let why = self.own().failure.clone().unwrap_or_default();
        let why = format!("{why}, for {} s (BackendExitSeconds)", silent_for.as_secs());
        error!("this member exits: {why}");
        self.given_up.send_replace(Some(why));
    }
}
