//! A client that asks an API all the time and remembers each answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;

use super::http::WRITE_TOKEN;
use super::sql::Address;
use super::wait::until;

/// How long it rests after an answer.
const REST: Duration = Duration::from_millis(20);
/// How long it waits for one.
const PATIENCE: Duration = Duration::from_secs(10);

/// One request and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// The status, or why there was none.
    pub(crate) outcome: Result<u16, String>,
    /// The member that answered.
    pub(crate) member: Option<String>,
}

impl Asked {
    pub(crate) fn is_good(&self) -> bool {
        self.outcome == Ok(200)
    }
}

/// A running client. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) name: &'static str,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Asker {
    /// Asks the routes in turn.
    pub(crate) fn start(name: &'static str, at: &Address, routes: &'static [&'static str]) -> Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .retry(reqwest::retry::never())
            .tcp_nodelay(true)
            .timeout(PATIENCE)
            .build()
            .context("make an HTTP client")?;
        let (asked, at) = (Arc::<Mutex<Vec<Asked>>>::default(), at.clone());
        let shared = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            for route in routes.iter().cycle() {
                let begun = Instant::now();
                let request = client.get(format!("http://{at}/api/{route}")).bearer_auth(WRITE_TOKEN);
                let (outcome, member) = match request.send().await {
                    Ok(answer) => {
                        let name = answer.headers().get("x-ham4db-member");
                        let member = name.and_then(|name| name.to_str().ok()).map(str::to_owned);
                        let status = answer.status().as_u16();
                        let received = answer.bytes().await.map_err(|error| format!("{error:?}"));
                        (received.map(|_| status), member)
                    }
                    Err(error) => (Err(format!("{error:?}")), None),
                };
                let done = Asked {
                    begun,
                    ended: Instant::now(),
                    outcome,
                    member,
                };
                shared.lock().unwrap_or_else(PoisonError::into_inner).push(done);
                tokio::time::sleep(REST).await;
            }
        });
        Ok(Self { name, asked, task })
    }

    /// What it asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for so many good answers to requests that begin from now on.
    pub(crate) async fn progress(&self, count: usize, limit: Duration) -> Result<()> {
        let from = Instant::now();
        until(limit, &format!("{count} answers to {}", self.name), async || {
            let asked = self.asked();
            let good = asked
                .iter()
                .filter(|asked| asked.is_good() && asked.begun > from)
                .count();
            ensure!(good >= count, "{good}; the last one: {:?}", asked.last());
            Ok(Some(()))
        })
        .await
    }

    /// The longest time between two good answers.
    pub(crate) fn longest_gap(&self) -> Duration {
        let asked = self.asked();
        let good: Vec<&Asked> = asked.iter().filter(|asked| asked.is_good()).collect();
        let gaps = good.iter().zip(good.iter().skip(1));
        gaps.map(|(one, next)| next.ended - one.ended).max().unwrap_or_default()
    }

    /// How often it got which answer, as `200: 940, 503: 12, none: 1`.
    pub(crate) fn outcomes(&self) -> String {
        let mut counts = BTreeMap::<String, usize>::new();
        for asked in self.asked() {
            let outcome = asked.outcome.map_or("none".to_owned(), |status| status.to_string());
            *counts.entry(outcome).or_default() += 1;
        }
        let counts: Vec<String> = counts
            .iter()
            .map(|(outcome, count)| format!("{outcome}: {count}"))
            .collect();
        counts.join(", ")
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.task.abort();
    }
}
