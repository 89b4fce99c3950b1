//! Checks whether a claim is current in a state: the part of `confirm` that all consensus adapters share.

use crate::app::ports::Unconfirmed;
use crate::domain::state::{ClaimToken, Epoch, State};

/// The epoch of the claim, if the state still has it. The caller has proved before that this state is the latest.
///
/// # Errors
/// [`Unconfirmed::Stale`] when the recovery is unknown or over, or when another actor resumed it with a higher epoch.
pub fn check_claim(state: &State, token: &ClaimToken) -> Result<Epoch, Unconfirmed> {
    let outdated = |why: String| Err(Unconfirmed::Stale(format!("recovery {}: {why}", token.uid)));
    let Some(recovery) = state.recoveries.get(&token.uid) else {
        return outdated("unknown".to_owned());
    };
    if !recovery.is_active() {
        return outdated("over".to_owned());
    }
    if recovery.epoch != token.epoch || recovery.holder != token.holder {
        return outdated(format!(
            "{} holds it with epoch {}, the token has {}",
            recovery.holder_name, recovery.epoch, token.epoch
        ));
    }
    if let Some(cluster) = state.clusters.get(&token.cluster)
        && cluster.epoch > token.epoch
    {
        return outdated(format!(
            "the cluster has epoch {}, the token has {}",
            cluster.epoch, token.epoch
        ));
    }
    Ok(recovery.epoch)
}
