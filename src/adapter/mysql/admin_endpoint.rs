//! The reserved admin endpoints of servers: the address of `MySQL` (8.0.14) at which administrators are let in however many others there are, and
//! `MariaDB`'s extra port. They are learned while a server lets us in as usual, and tried when it says that it is full.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;

use super::server_connection::ServerInfo;

/// The admin endpoints that are known, shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct AdminEndpoints(Arc<Mutex<BTreeMap<InstanceKey, AdminEndpoint>>>);

/// Where a server is reached, and who it was: the address alone proves nothing, as it may be one of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdminEndpoint {
    pub(super) at: InstanceKey,
    pub(super) identity: Identity,
}

impl PartialEq for AdminEndpoints {
    /// What was learned is no setting.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for AdminEndpoints {}

impl AdminEndpoints {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, AdminEndpoint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether a server has such a admin endpoint.
    pub(super) fn remember(&self, instance: &InstanceKey, server_info: &ServerInfo) {
        let value = |name: &str| server_info.variable(name);
        match address(instance, &value) {
            Some(at) => {
                let identity = server_info.identity(value("server_id").parse().unwrap_or_default());
                self.lock().insert(instance.clone(), AdminEndpoint { at, identity });
            }
            None => self.forget(instance),
        }
    }

    /// The admin endpoint of a server, if it has one.
    pub(super) fn of(&self, instance: &InstanceKey) -> Option<AdminEndpoint> {
        self.lock().get(instance).cloned()
    }

    /// Forgets what was known of a server.
    pub(super) fn forget(&self, instance: &InstanceKey) {
        self.lock().remove(instance);
    }
}

/// `admin_address` is one address, never a wildcard, and empty by default: there is no admin endpoint then. `MariaDB`'s extra port, 0 when there is
/// none, listens where the usual one does.
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
    fn a_admin_endpoint_is_where_the_variables_say_and_nowhere_without_them() {
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
