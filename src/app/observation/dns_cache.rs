//! Addresses of host names, with the last known answer as a fallback.
//!
//! A failover must not wait for DNS: the lost machine may have been the name server, and a resolver tries it for seconds before it tries
//! another. So every use resolves the name again, but waits only briefly when an earlier answer is known.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a lookup is awaited when an earlier answer is known. A resolver in the same network needs a few milliseconds.
const LOOKUP_WAIT: Duration = Duration::from_millis(100);

/// The most names that are kept: more than the servers that one group can manage.
const MAX_NAMES: usize = 20_000;

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<IpAddr>,
    /// A lookup is running. A second one would wait equally long, on another thread.
    is_lookup_running: bool,
}

/// The resolver belongs to the process, and so does the cache of its answers.
static NAMES: LazyLock<DnsCache> = LazyLock::new(DnsCache::default);

/// The last known addresses of a host name; none when it was not looked up yet, and for an address.
pub fn last_known(host: &str) -> Vec<IpAddr> {
    let known = NAMES.lock();
    known.get(host).map_or_else(Vec::new, |known| known.addresses.clone())
}

/// The addresses of a host from the resolver of the machine. When the resolver does not answer within 100 ms or fails, the last known
/// addresses are returned.
///
/// "No such name" counts as an answer. A last known address may belong to another machine by now, so a caller that connects to it has to
/// check the identity of the server, as with any address.
///
/// # Errors
/// Those of the resolver, and when it finds no address.
pub async fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    let name = host.to_owned();
    let lookup = async move {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    };
    NAMES.resolve(host, lookup).await
}

/// The last known addresses of host names.
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
                Some(entry) if entry.is_lookup_running => return Ok(entry.addresses.clone()),
                Some(entry) => {
                    entry.is_lookup_running = true;
                    Some(entry.addresses.clone())
                }
                None => None,
            }
        };
        let (answer, mut answered) = oneshot::channel();
        let name = host.to_owned();
        // The task ends after the resolver's own deadlines. A late answer serves the next lookup.
        tokio::spawn(async move {
            let found = lookup.await;
            self.store(&name, found.as_ref().ok());
            // The receiver may be gone by now.
            drop(answer.send(found));
        });
        let never = || io::Error::other("the resolver does not answer");
        let Some(before) = before else {
            return non_empty(answered.await.map_err(|_| never())??);
        };
        match timeout(LOOKUP_WAIT, &mut answered).await {
            Ok(Ok(Ok(found))) if !found.is_empty() => Ok(found),
            Ok(Ok(Err(error))) if is_name_not_found(&error) => Err(error),
            Ok(_) | Err(_) => Ok(before),
        }
    }

    fn store(&self, name: &str, found: Option<&Vec<IpAddr>>) {
        let mut known = self.lock();
        match found.filter(|found| !found.is_empty()) {
            Some(found) => {
                if known.len() >= MAX_NAMES && !known.contains_key(name) {
                    known.pop_first();
                }
                let addresses = found.clone();
                known.insert(
                    name.to_owned(),
                    Known {
                        addresses,
                        is_lookup_running: false,
                    },
                );
            }
            None => {
                if let Some(entry) = known.get_mut(name) {
                    entry.is_lookup_running = false;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn non_empty(found: Vec<IpAddr>) -> io::Result<Vec<IpAddr>> {
    if found.is_empty() {
        return Err(io::Error::other("it has no address"));
    }
    Ok(found)
}

/// Whether the C library reports a name that does not exist (`EAI_NONAME`, `EAI_NODATA`), as opposed to a resolver that cannot be reached
/// (`EAI_AGAIN`, `EAI_FAIL`). The standard library passes only the text on, which is that of the C locale because the process sets none.
fn is_name_not_found(error: &io::Error) -> bool {
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

    fn resolver_error(text: &str) -> io::Error {
        io::Error::other(format!("failed to lookup address information: {text}"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_answer_counts() {
        let names = known().await;
        assert_eq!(names.resolve("db1", async { Ok(vec![NEW]) }).await.unwrap(), [NEW]);
        assert_eq!(
            names
                .resolve("db1", async { Err(resolver_error("Try again")) })
                .await
                .unwrap(),
            [NEW]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_does_not_answer_is_waited_for_once() {
        let names = known().await;
        let begun = tokio::time::Instant::now();
        assert_eq!(names.resolve("db1", pending()).await.unwrap(), [OLD]);
        assert_eq!(begun.elapsed(), LOOKUP_WAIT);
        assert_eq!(names.resolve("db1", pending()).await.unwrap(), [OLD]);
        assert_eq!(
            begun.elapsed(),
            LOOKUP_WAIT,
            "a second use does not wait beside a running lookup"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_is_for_the_next_one() {
        let names = known().await;
        let late = async {
            tokio::time::sleep(LOOKUP_WAIT * 2).await;
            Ok(vec![NEW])
        };
        assert_eq!(names.resolve("db1", late).await.unwrap(), [OLD]);
        tokio::time::sleep(LOOKUP_WAIT * 2).await;
        assert_eq!(names.resolve("db1", pending()).await.unwrap(), [NEW]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_gone_is_gone() {
        let names = known().await;
        let gone = async { Err(resolver_error("Name or service not known")) };
        names.resolve("db1", gone).await.unwrap_err();
        let broken = async { Err(resolver_error("Temporary failure in name resolution")) };
        assert_eq!(names.resolve("db1", broken).await.unwrap(), [OLD]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_was_never_known_is_waited_for() {
        let names = names();
        let slow = async {
            tokio::time::sleep(LOOKUP_WAIT * 5).await;
            Ok(vec![NEW])
        };
        assert_eq!(names.resolve("db2", slow).await.unwrap(), [NEW]);
        let empty = names.resolve("db3", async { Ok(Vec::new()) }).await;
        assert_eq!(empty.unwrap_err().to_string(), "it has no address");
        assert_eq!(names.resolve("198.51.100.1", pending()).await.unwrap(), [OLD]);
    }
}
