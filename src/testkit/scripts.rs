//! The port `Hooks` without processes: a test defines the effect of each command, in simulated time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{sleep, timeout};

use crate::app::ports::{HookCall, HookExit, HookResult, Hooks};
use crate::domain::state::MemberId;

/// The effect of a command.
pub(crate) struct Script {
    /// The run time.
    pub(crate) takes: Duration,
    /// The exit code.
    pub(crate) code: i32,
    /// A change of the world at its start.
    pub(crate) begins: Option<Box<dyn FnOnce() + Send>>,
}

impl Script {
    /// A command that succeeds at once.
    pub(crate) fn good() -> Self {
        Self {
            takes: Duration::ZERO,
            code: 0,
            begins: None,
        }
    }
}

/// One call of a command.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) member: MemberId,
    pub(crate) text: String,
    pub(crate) variables: BTreeMap<&'static str, String>,
    pub(crate) input: serde_json::Value,
}

#[derive(Default)]
struct Inner {
    planned: Vec<(String, Script)>,
    ran: Vec<Ran>,
}

/// The commands of all members.
#[derive(Clone, Default)]
pub(crate) struct Scripts(Arc<Mutex<Inner>>);

impl Scripts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Defines the next run of a command. All other runs succeed at once.
    pub(crate) fn plan(&self, text: &str, script: Script) {
        self.lock().planned.push((text.to_owned(), script));
    }

    /// The calls, in order.
    pub(crate) fn ran(&self) -> Vec<Ran> {
        self.lock().ran.clone()
    }

    /// The texts of the calls with their attempts, in order.
    pub(crate) fn told(&self) -> Vec<String> {
        self.ran()
            .iter()
            .map(|ran| format!("{} #{}", ran.text, ran.variables["HAM4DB_ATTEMPT"]))
            .collect()
    }

    /// The port of one member.
    pub(crate) fn of(&self, member: MemberId) -> SimHooks {
        SimHooks {
            scripts: self.clone(),
            member,
        }
    }
}

/// The port of one member.
pub(crate) struct SimHooks {
    scripts: Scripts,
    member: MemberId,
}

#[async_trait]
impl Hooks for SimHooks {
    async fn run(&self, call: HookCall) -> HookResult {
        let script = {
            let mut inner = self.scripts.lock();
            let planned = inner.planned.iter().position(|(text, _)| *text == call.text);
            let script = planned.map_or_else(Script::good, |at| inner.planned.remove(at).1);
            inner.ran.push(Ran {
                member: self.member,
                text: call.text.clone(),
                variables: call.environment.clone(),
                input: serde_json::from_str(&call.input).unwrap(),
            });
            script
        };
        if let Some(change) = script.begins {
            change();
        }
        let exit = match timeout(call.deadline, sleep(script.takes)).await {
            Ok(()) => HookExit::Code(script.code),
            Err(_) => HookExit::TooSlow,
        };
        HookResult {
            exit,
            output: if script.code == 0 { "" } else { "not today" }.to_owned(),
            millis: 1,
        }
    }
}
