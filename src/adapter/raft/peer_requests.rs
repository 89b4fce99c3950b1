//! Requests to peers that several parts of a member make.

use std::time::Duration;

use futures::future::join_all;

use super::context::MemberContext;
use super::network::Recipient;
use super::types::MemberNode;
use super::wire::{Hello, JoinAnswer, JoinRequest};

/// Deadline of a request that a peer answers from memory.
pub(super) const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// Deadline of a request for an id: the leader commits an entry first.
const JOIN_DEADLINE: Duration = Duration::from_secs(6);

/// Sends `hello` to all other wanted members and founders. The second list has the names of those that do not answer, with the reason.
pub(super) async fn greet_peers(context: &MemberContext) -> (Vec<Hello>, Vec<(String, String)>) {
    let peers = context.wanted_peers();
    let requests = join_all(peers.iter().map(|node| {
        context
            .dialer
            .call::<_, Hello>(Recipient { node, member: None }, "hello", &(), None, ASK_DEADLINE)
    }));
    let mut answered = Vec::new();
    let mut silent = Vec::new();
    for (peer, answer) in peers.iter().zip(requests.await) {
        match answer {
            Ok(hello) if hello.node.name == peer.name => answered.push(hello),
            Ok(hello) => silent.push((
                peer.name.clone(),
                format!("{} answers at the address of {}", hello.node.name, peer.name),
            )),
            Err(error) => silent.push((peer.name.clone(), error.to_string())),
        }
    }
    (answered, silent)
}

/// Sends a join request to `to`, then to the leader that it names.
pub(super) async fn send_join(
    context: &MemberContext,
    to: &MemberNode,
    request: &JoinRequest,
) -> Result<JoinAnswer, String> {
    let mut to = to.clone();
    for _ in 0..2 {
        let recipient = Recipient {
            node: &to,
            member: None,
        };
        let answer: JoinAnswer = context
            .dialer
            .call(recipient, "join", request, None, JOIN_DEADLINE)
            .await
            .map_err(|error| error.to_string())?;
        match answer {
            JoinAnswer::NotLeader { leader: Some(leader) } => to = leader,
            JoinAnswer::NotLeader { leader: None }
            | JoinAnswer::Allocated { .. }
            | JoinAnswer::Pending
            | JoinAnswer::Refused { .. } => {
                return Ok(answer);
            }
        }
    }
    Ok(JoinAnswer::NotLeader { leader: None })
}
