//! Looks at the old primary while a step waits for replicas: when it is back, the step ends, and the recovery may be undone.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{Either, select};
use tokio::time::{Instant, sleep_until};

use crate::app::ports::{ProbeConnection, StepError, Target};
use crate::domain::instance::InstanceFacts;
use crate::domain::key::InstanceKey;

use super::{RecoveryContext, StepExecutor};

/// The time between two looks, from begin to begin.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Ends the wait of a step.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the step has to end.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The error of a step on this server that was interrupted.
    pub(super) fn error(instance: &InstanceKey) -> StepError {
        StepError::Refused {
            instance: instance.clone(),
            what: "waiting until everything received is applied".to_owned(),
            number: 0,
            message: "interrupted: the old primary is back".to_owned(),
        }
    }
}

/// Looks at one server while a step waits.
pub struct ReturnWatch {
    context: RecoveryContext,
    target: Target,
    interrupt: Interrupt,
}

impl StepExecutor {
    /// A watch of the old primary.
    pub fn watch_for_return(&self, old_primary: &InstanceKey) -> ReturnWatch {
        ReturnWatch {
            context: self.context.clone(),
            target: self.target(old_primary),
            interrupt: Interrupt::default(),
        }
    }
}

impl ReturnWatch {
    /// What the step has to look at while it waits.
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Runs a step, and interrupts it when the server answers with facts for which `is_back` holds.
    pub async fn during<T>(&self, step: impl Future<Output = T>, is_back: impl Fn(&InstanceFacts) -> bool) -> T {
        let looking = self.look(is_back);
        match select(pin!(step), pin!(looking)).await {
            Either::Left((done, _)) => done,
            Either::Right(((), step)) => step.await,
        }
    }

    async fn look(&self, is_back: impl Fn(&InstanceFacts) -> bool) {
        let mut next = Instant::now() + LOOK_INTERVAL;
        loop {
            sleep_until(next).await;
            next = Instant::now() + LOOK_INTERVAL;
            let begun = self.context.clock.monotonic();
            let deadline = self.context.settings.fence_deadline;
            let probing = self
                .context
                .prober
                .probe(&self.target, ProbeConnection::Fresh, deadline);
            let observation = probing.await;
            self.context
                .instance_cache
                .record(&observation, begun, self.context.clock.monotonic());
            if observation.outcome.is_ok_and(|facts| is_back(&facts)) {
                self.interrupt.set();
                return;
            }
        }
    }
}
