//! The admin endpoints of servers: `admin_address` of `MySQL` (8.0.14), which accepts administrators regardless of
//! `max_connections`, and `extra_port` of `MariaDB`. They are read on normal connections, and used when a server reports error
//! 1040 (too many connections).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;

use super::server_info::ServerInfo;

/// The known admin endpoints. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct AdminEndpoints(Arc<Mutex<BTreeMap<InstanceKey, AdminEndpoint>>>);

/// An endpoint and the identity of its server. The address alone does not identify the server: `127.0.0.1` is on every machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdminEndpoint {
    pub(super) address: InstanceKey,
    pub(super) identity: Identity,
}

impl PartialEq for AdminEndpoints {
    /// The endpoints are discovered at run time and are no part of the configuration, so they do not count in comparisons.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for AdminEndpoints {}

impl AdminEndpoints {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, AdminEndpoint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the admin endpoint of a server, or that the server has none.
    pub(super) fn record(&self, instance: &InstanceKey, server_info: &ServerInfo) {
        let value = |name: &str| server_info.variable(name);
        match address(instance, &value) {
            Some(address) => {
                let identity = server_info.identity(value("server_id").parse().unwrap_or_default());
                self.lock()
                    .insert(instance.clone(), AdminEndpoint { address, identity });
            }
            None => self.forget(instance),
        }
    }

    /// The admin endpoint of a server, if it has one.
    pub(super) fn of(&self, instance: &InstanceKey) -> Option<AdminEndpoint> {
        self.lock().get(instance).cloned()
    }

    /// Removes the endpoint of a server.
    pub(super) fn forget(&self, instance: &InstanceKey) {
        self.lock().remove(instance);
    }
}

/// The address of the admin endpoint by the variables of a server. `admin_address` is one address, never a wildcard. It is empty
/// by default: then there is no admin endpoint. `MariaDB`'s `extra_port` listens on the same addresses as the normal port; 0
/// means none.
fn address<'a>(instance: &InstanceKey, value: &impl Fn(&str) -> &'a str) -> Option<InstanceKey> {
    let port = |name: &str| value(name).parse::<u16>().ok().filter(|port| *port > 0);
    let host = value("admin_address");
    if host.is_empty() {
        return Some(InstanceKey::new(instance.hostname.clone(), port("extra_port")?));
    }
    Some(InstanceKey::new(host, port("admin_port")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_endpoint_is_where_the_variables_say_and_nowhere_without_them() {
        let instance = InstanceKey::new("db1", 3306);
        let of = |known: &[(&str, &'static str)]| {
            let known: BTreeMap<String, &'static str> =
                known.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            address(&instance, &|name: &str| known.get(name).copied().unwrap_or_default())
        };
        let mysql = of(&[("admin_address", "10.0.0.7"), ("admin_port", "33062")]);
        assert_eq!(mysql, Some(InstanceKey::new("10.0.0.7", 33062)));
        assert_eq!(of(&[("admin_address", ""), ("admin_port", "33062")]), None);
        assert_eq!(of(&[("extra_port", "3307")]), Some(InstanceKey::new("db1", 3307)));
        assert_eq!(of(&[("extra_port", "0")]), None);
        assert_eq!(of(&[]), None);
    }
}
