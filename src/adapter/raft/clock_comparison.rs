//! Compares the clocks of the voters: every member asks every other one, so that a new leader knows the time of the majority.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::context::{MemberContext, RaftIncarnation};
use super::network::Recipient;
use super::types::MemberNode;
use super::wire::ClockAnswer;
use crate::domain::clock_skew::ClockReading;
use crate::domain::state::MemberId;

/// Deadline of one request. The answer may be wrong by half of its round trip.
const DEADLINE: Duration = Duration::from_millis(500);

/// Compares the clocks again and again.
pub(super) async fn run(context: &Arc<MemberContext>, incarnation: &Arc<RaftIncarnation>) {
    loop {
        compare(context, incarnation).await;
        tokio::time::sleep(context.settings.timings.clock_interval).await;
    }
}

/// Compares the clocks once unless a majority was compared before. Called before a proposal, which carries the time. Members of an earlier
/// version have no such route: later proposals do not wait for them.
pub(super) async fn ensure(context: &MemberContext, incarnation: &RaftIncarnation) {
    if !context.dependencies.clock.was_compared() && !incarnation.has_asked_clocks.swap(true, Ordering::SeqCst) {
        compare(context, incarnation).await;
    }
}

async fn compare(context: &MemberContext, incarnation: &RaftIncarnation) {
    let own = incarnation.own.member;
    let voters: Vec<(MemberId, MemberNode)> = {
        let metrics = incarnation.metrics();
        let membership = &metrics.membership_config;
        let nodes = membership
            .voter_ids()
            .filter_map(|id| Some((id, membership.get_node(&id)?)));
        nodes.map(|(id, node)| (id, context.current_address(node))).collect()
    };
    let clock = &context.dependencies.clock;
    if voters.len() > 1 {
        clock.expect_comparison();
    }
    let others = voters.iter().filter(|(id, _)| *id != own);
    let asked = others.map(|(id, node)| read_clock(context, incarnation, *id, node));
    let answers: Vec<(ClockReading, Instant)> = join_all(asked).await.into_iter().flatten().collect();
    let now = Instant::now();
    let mut readings: Vec<ClockReading> = answers
        .into_iter()
        .map(|(reading, read)| {
            let since = i64::try_from((now - read).as_millis()).unwrap_or(i64::MAX);
            ClockReading {
                at: reading.at.plus_millis(since),
                ..reading
            }
        })
        .collect();
    if voters.iter().any(|(id, _)| *id == own) {
        readings.push(ClockReading {
            member: own,
            name: context.settings.name.clone(),
            at: clock.own().wall(),
            uncertainty_millis: 0,
        });
    }
    let earliest = context.state.borrow().clock;
    clock.compare(&readings, voters.len(), earliest);
    clock.retain_members(|member| voters.iter().any(|(id, _)| *id == member));
}

/// The clock of a peer, and the moment for which that reading is right: the middle of the round trip.
async fn read_clock(
    context: &MemberContext,
    incarnation: &RaftIncarnation,
    member: MemberId,
    node: &MemberNode,
) -> Option<(ClockReading, Instant)> {
    let to = Recipient {
        node,
        member: Some(member),
    };
    let begun = Instant::now();
    let answer = context
        .dialer
        .call::<_, ClockAnswer>(to, "clock", &(), Some(&incarnation.own), DEADLINE)
        .await;
    match answer {
        Ok(answer) => {
            let half = begun.elapsed() / 2;
            let reading = ClockReading {
                member,
                name: node.name.clone(),
                at: answer.at,
                uncertainty_millis: u64::try_from(half.as_millis()).unwrap_or(u64::MAX).saturating_add(1),
            };
            Some((reading, begun + half))
        }
        // Reported where heartbeats fail; a member of an earlier version has no such route.
        Err(error) => {
            tracing::debug!("clock of member {} not read: {error}", node.name);
            None
        }
    }
}
