//! Names of machines, and what they stood for when that was last known.
//!
//! A failover must not wait for DNS: the server that is lost may have been the one that answered, and a resolver asks it for seconds
//! before it asks another. So every name is asked for anew at every use, but not waited for when an answer of before is there.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long an answer is waited for where one of before is there. A resolver of the own network needs a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(100);

/// Names that are kept: more than the servers that one group can watch.
const MOST_NAMES: usize = 20_000;

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<IpAddr>,
    /// A question is on its way. A second one would wait just as long, on a thread of its own.
    is_asked: bool,
}

/// The addresses of a host, asked of the machine's resolver, or what it answered before when it does not answer within 100 ms or cannot
/// tell.
///
/// That there is no such name is an answer. An address of before may be another machine's by now: who dials it has to ask for the
/// identity of who answers, as with any address.
///
/// # Errors
/// Those of the resolver, and when it finds nothing.
pub async fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    // The resolver is the process's, and so is what it said.
    static NAMES: LazyLock<DnsCache> = LazyLock::new(DnsCache::default);
    let name = host.to_owned();
    let lookup = async move {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    };
    NAMES.resolve(host, lookup).await
}

/// What names stood for.
#[derive(Debug, Default)]
struct DnsCache {
    known: Mutex<BTreeMap<String, Known>>,
}

impl DnsCache {
    async fn resolve<L>(&'static self, host: &str, lookup: L) -> io::Result<Vec<IpAddr>>
    where
        L: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let before = {
            let mut known = self.lock();
            match known.get_mut(host) {
                Some(entry) if entry.is_asked => return Ok(entry.addresses.clone()),
                Some(entry) => {
                    entry.is_asked = true;
                    Some(entry.addresses.clone())
                }
                None => None,
            }
        };
        let (answer, mut answered) = oneshot::channel();
        let name = host.to_owned();
        // It ends by itself, after the resolver's own deadlines: what it brings is for the next one who asks.
        tokio::spawn(async move {
            let found = lookup.await;
            self.note(&name, found.as_ref().ok());
            // Nobody may be waiting any more.
            drop(answer.send(found));
        });
        let never = || io::Error::other("the resolver does not answer");
        let Some(before) = before else {
            return some(answered.await.map_err(|_| never())??);
        };
        match timeout(PATIENCE, &mut answered).await {
            Ok(Ok(Ok(found))) if !found.is_empty() => Ok(found),
            Ok(Ok(Err(error))) if says_there_is_none(&error) => Err(error),
            Ok(_) | Err(_) => Ok(before),
        }
    }

    fn note(&self, name: &str, found: Option<&Vec<IpAddr>>) {
        let mut known = self.lock();
        match found.filter(|found| !found.is_empty()) {
            Some(found) => {
                if known.len() >= MOST_NAMES && !known.contains_key(name) {
                    known.pop_first();
                }
                let addresses = found.clone();
                known.insert(
                    name.to_owned(),
                    Known {
                        addresses,
                        is_asked: false,
                    },
                );
            }
            None => {
                if let Some(entry) = known.get_mut(name) {
                    entry.is_asked = false;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn some(found: Vec<IpAddr>) -> io::Result<Vec<IpAddr>> {
    if found.is_empty() {
        return Err(io::Error::other("it has no address"));
    }
    Ok(found)
}

/// What the C library says of a name that does not exist (`EAI_NONAME`, `EAI_NODATA`), in difference to a resolver that cannot be reached
/// (`EAI_AGAIN`, `EAI_FAIL`). The standard library passes on the text alone, which is the C locale's as the process sets none.
fn says_there_is_none(error: &io::Error) -> bool {
    let text = error.to_string();
    text.contains("not known") || text.contains("No address associated")
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn names() -> &'static DnsCache {
        Box::leak(Box::default())
    }

    const OLD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));
    const NEW: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 2));

    async fn known() -> &'static DnsCache {
        let names = names();
        let found = names.resolve("db1", async { Ok(vec![OLD]) }).await;
        assert_eq!(found.unwrap(), [OLD]);
        names
    }

    fn says(text: &str) -> io::Error {
        io::Error::other(format!("failed to lookup address information: {text}"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_answer_counts() {
        let names = known().await;
        assert_eq!(names.resolve("db1", async { Ok(vec![NEW]) }).await.unwrap(), [NEW]);
        assert_eq!(
            names.resolve("db1", async { Err(says("Try again")) }).await.unwrap(),
            [NEW]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_does_not_answer_is_waited_for_once() {
        let names = known().await;
        let begun = tokio::time::Instant::now();
        assert_eq!(names.resolve("db1", pending()).await.unwrap(), [OLD]);
        assert_eq!(begun.elapsed(), PATIENCE);
        assert_eq!(names.resolve("db1", pending()).await.unwrap(), [OLD]);
        assert_eq!(
            begun.elapsed(),
            PATIENCE,
            "nobody waits beside a question that is on its way"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_is_for_the_next_one() {
        let names = known().await;
        let late = async {
            tokio::time::sleep(PATIENCE * 2).await;
            Ok(vec![NEW])
        };
        assert_eq!(names.resolve("db1", late).await.unwrap(), [OLD]);
        tokio::time::sleep(PATIENCE * 2).await;
        assert_eq!(names.resolve("db1", pending()).await.unwrap(), [NEW]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_gone_is_gone() {
        let names = known().await;
        let gone = async { Err(says("Name or service not known")) };
        names.resolve("db1", gone).await.unwrap_err();
        let broken = async { Err(says("Temporary failure in name resolution")) };
        assert_eq!(names.resolve("db1", broken).await.unwrap(), [OLD]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_was_never_known_is_waited_for() {
        let names = names();
        let slow = async {
            tokio::time::sleep(PATIENCE * 5).await;
            Ok(vec![NEW])
        };
        assert_eq!(names.resolve("db2", slow).await.unwrap(), [NEW]);
        let empty = names.resolve("db3", async { Ok(Vec::new()) }).await;
        assert_eq!(empty.unwrap_err().to_string(), "it has no address");
        assert_eq!(names.resolve("198.51.100.1", pending()).await.unwrap(), [OLD]);
    }
}
