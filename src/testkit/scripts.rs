//! The port `Hooks` without processes: each command does what the test says of it, in the test's own time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{sleep, timeout};

use crate::app::ports::{HookCall, HookEnd, HookExit, Hooks};
use crate::domain::state::MemberId;

/// What a command does.
pub(crate) struct Script {
    /// How long it runs.
    pub(crate) takes: Duration,
    /// With which code it ends.
    pub(crate) code: i32,
    /// What happens in the world when it begins.
    pub(crate) begins: Option<Box<dyn FnOnce() + Send>>,
}

impl Script {
    /// Ends at once, well.
    pub(crate) fn good() -> Self {
        Self {
            takes: Duration::ZERO,
            code: 0,
            begins: None,
        }
    }
}

/// One command that was run.
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

/// All members' commands.
#[derive(Clone, Default)]
pub(crate) struct Scripts(Arc<Mutex<Inner>>);

impl Scripts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// The next run of this command is so; all others end well at once.
    pub(crate) fn plan(&self, text: &str, script: Script) {
        self.lock().planned.push((text.to_owned(), script));
    }

    /// What was begun, in order.
    pub(crate) fn ran(&self) -> Vec<Ran> {
        self.lock().ran.clone()
    }

    /// The texts of what was begun, with the attempt, in order.
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

/// One member's port.
pub(crate) struct SimHooks {
    scripts: Scripts,
    member: MemberId,
}

#[async_trait]
impl Hooks for SimHooks {
    async fn run(&self, call: HookCall) -> HookEnd {
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
        HookEnd {
            exit,
            output: if script.code == 0 { "" } else { "not today" }.to_owned(),
            millis: 1,
        }
    }
}
