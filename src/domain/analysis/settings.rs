//! Advice from a server's own settings and privileges about the next failure, one finding for each server and code. It
//! triggers nothing.
//!
//! Only known values of answering servers are judged.

use crate::domain::dialect::Dialect;
use crate::domain::finding::Code;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{BootReadOnly, Policy};
use crate::domain::settings::{Boot, ServerSettings};
use crate::domain::topology::Topology;

/// A `replica_net_timeout` up to this many seconds is not reported. A member makes replicas reconnect when it suspects
/// a silent partition; only partitions that it does not suspect last until the timeout. The server's default is 60.
const LONG_NET_TIMEOUT_SECONDS: u64 = 10;

/// All advice about one server, in the order of the codes.
pub(super) fn advice(topology: &Topology, policy: &Policy, instance: &Instance) -> Vec<(Code, String)> {
    let Some(facts) = instance.valid_facts() else {
        return Vec::new();
    };
    let key = &instance.key;
    let mut found = Vec::new();
    let mut say = |code, description: Option<String>| found.extend(description.map(|description| (code, description)));
    say(
        Code::MissingReplicationCredentials,
        missing_account(topology, policy, instance, facts),
    );
    let settings = facts.settings.as_ref();
    say(
        Code::MissingPrivileges,
        settings.and_then(|settings| missing_privileges(key, facts, settings)),
    );
    say(
        Code::FenceIneffective,
        settings.and_then(|settings| ineffective_fence(key, facts, settings)),
    );
    say(
        Code::BootsWritable,
        settings
            // Whether a member of a replication group is writable after its start is decided by the group.
            .filter(|_| !facts.is_group_member())
            .and_then(|settings| boots_writable(key, policy, settings)),
    );
    say(Code::DurabilityNotKept, without_semi_sync(policy, key, facts));
    say(Code::UnsafeSettings, unsafe_settings(topology, instance, facts));
    found
}

/// No account for new channels is configured, and this server has no channel with an account: nothing could make it a
/// replica.
fn missing_account(topology: &Topology, policy: &Policy, instance: &Instance, facts: &InstanceFacts) -> Option<String> {
    let has_one = facts.managed_channel().is_some_and(|channel| !channel.user.is_empty());
    // A member of a replication group has a channel of the group.
    if policy.replication_account != Some(false) || has_one || facts.is_group_member() || topology.instances.len() < 2 {
        return None;
    }
    Some(format!(
        "{} has no replication channel with an account, and no account is configured (replicationUser in the Secret, \
         MySQLReplicationUser): it cannot be made a replica",
        instance.key
    ))
}

/// A program that answers at the address of such a server can act as the server, and gets what the handshake reveals.
pub(super) fn unverified_servers(topology: &Topology) -> Option<String> {
    let instances = topology.instances.values();
    let unverified = instances.filter(|instance| instance.valid_facts().is_some_and(|facts| facts.is_unverified));
    match unverified.count() {
        0 => None,
        count => Some(format!(
            "{count} of {} servers are connected without verified TLS: a program that answers at such an address can act as the \
             server and obtain the account; use tls.mode: Verify, or MySQLTopologySSLCAFile",
            topology.instances.len()
        )),
    }
}

/// The policy needs semi-sync, and the server does not have it.
fn without_semi_sync(policy: &Policy, key: &InstanceKey, facts: &InstanceFacts) -> Option<String> {
    let needs = policy.durability.is_kept() && !facts.is_group_member() && !facts.is_binlog_server();
    if !needs || facts.semi_sync.available {
        return None;
    }
    let statements = Dialect::new(&facts.version).install_semi_sync();
    let text = match statements {
        [] => "semi-sync is not available".to_owned(),
        statements => format!("the semi-sync plugins are not installed: {}", statements.join("; ")),
    };
    Some(format!("{key}: {text}; the durability policy cannot be met with it"))
}

fn missing_privileges(key: &InstanceKey, facts: &InstanceFacts, settings: &ServerSettings) -> Option<String> {
    let privileges = settings.privileges.as_ref()?;
    let dialect = Dialect::new(&facts.version);
    let missing: Vec<_> = dialect
        .required_privileges()
        .into_iter()
        .filter(|need| !privileges.has(need.privilege) && !need.or.iter().any(|other| privileges.has(other)))
        .collect();
    if missing.is_empty() {
        return None;
    }
    let names: Vec<&str> = missing.iter().map(|need| need.privilege).collect();
    let purposes: Vec<String> = missing
        .iter()
        .map(|need| format!("{} for {}", need.privilege, need.purpose))
        .collect();
    Some(format!(
        "a recovery on {key} would fail because of missing privileges ({}): {}",
        purposes.join("; "),
        dialect.grant(&names, &settings.account)
    ))
}

/// Which accounts can write on a server that ham4db made read-only, or why that is unknown; `None` when none can. `super_read_only`, which
/// `MySQL` has since 5.7, stops all of them.
pub fn read_only_bypass(facts: &InstanceFacts) -> Option<String> {
    if facts.version.has_super_read_only() {
        return None;
    }
    let Some(accounts) = facts
        .settings
        .as_ref()
        .and_then(|settings| settings.past_read_only.as_ref())
    else {
        return Some(String::from(
            "which accounts can write despite read_only is unknown, because ham4db's account may not read the privileges of others",
        ));
    };
    (accounts.count > 0).then(|| format!("{} accounts can write despite read_only ({accounts})", accounts.count))
}

/// The fence of `MariaDB` is `read_only`, which these accounts bypass. The fence of `MySQL` is `super_read_only`, which
/// no account bypasses. On `MySQL` only a server that has `read_only` without `super_read_only` takes their writes.
fn ineffective_fence(key: &InstanceKey, facts: &InstanceFacts, settings: &ServerSettings) -> Option<String> {
    let Some(accounts) = &settings.past_read_only else {
        // A replica is not fenced.
        let is_fenced = facts.version.flavour.is_mariadb() && facts.managed_channel().is_none();
        return is_fenced.then(|| {
            format!(
                "which accounts read_only on {key} would not stop is unknown: use GRANT SELECT ON mysql.global_priv for {}",
                settings.account
            )
        });
    };
    if accounts.count == 0 {
        return None;
    }
    if facts.version.flavour.is_mariadb() {
        return Some(format!(
            "read_only on {key} would not stop {} of its accounts ({accounts}): ham4db can only kill their sessions",
            accounts.count
        ));
    }
    let is_half_closed = facts.read_only && facts.super_read_only == Some(false);
    is_half_closed.then(|| {
        format!(
            "{key} is read_only and not super_read_only: {} of its accounts can write there ({accounts})",
            accounts.count
        )
    })
}

fn boots_writable(key: &InstanceKey, policy: &Policy, settings: &ServerSettings) -> Option<String> {
    let is_asked_for = policy.boot_read_only != BootReadOnly::Off;
    (is_asked_for && settings.boot == Boot::Writable).then(|| {
        format!(
            "{key} is writable right after a start: a failed primary takes writes until ham4db makes it read-only; \
             use SET PERSIST_ONLY super_read_only = ON, or bootReadOnly: Enforce"
        )
    })
}

/// Each unsafe setting with its value, the recommended one, and the reason.
fn unsafe_settings(topology: &Topology, instance: &Instance, facts: &InstanceFacts) -> Option<String> {
    let mut complaints = Vec::new();
    let mut complain = |setting: &str, value: &dyn std::fmt::Display, wanted: &str, why: &str| {
        complaints.push(format!("{setting} = {value}, recommended {wanted}: {why}"));
    };
    let is_replica = facts.managed_channel().is_some();
    let semi_sync = &facts.semi_sync;
    if let Some(settings) = &facts.settings {
        if let Some(commits) = settings.sync_binlog.filter(|commits| facts.log_bin && *commits != 1) {
            complain(
                "sync_binlog",
                &commits,
                "1",
                "a crash of the host loses transactions that replicas have",
            );
        }
        if let Some(mode) = settings.flush_log_at_commit.filter(|mode| *mode != 1) {
            complain(
                "innodb_flush_log_at_trx_commit",
                &mode,
                "1",
                "a crash of the host loses committed transactions",
            );
        }
        match settings.relay_log_recovery.filter(|_| is_replica) {
            Some(true) if semi_sync.replica_enabled => complain(
                "relay_log_recovery",
                &"ON",
                "OFF",
                "with semi-sync, a restart drops transactions that it acknowledged and had not applied",
            ),
            Some(false) if !semi_sync.replica_enabled => complain(
                "relay_log_recovery",
                &"OFF",
                "ON",
                "after a crash of its host replication may stop at a damaged relay log",
            ),
            Some(true | false) | None => {}
        }
        if let Some(seconds) = settings.replica_net_timeout_seconds.filter(|_| is_replica) {
            if seconds > LONG_NET_TIMEOUT_SECONDS {
                complain(
                    "replica_net_timeout",
                    &seconds,
                    &format!("{LONG_NET_TIMEOUT_SECONDS} or less"),
                    "it takes so many seconds to notice a silent source",
                );
            }
            match settings.heartbeat_millis {
                Some(0) => complain(
                    "heartbeat period",
                    &0,
                    "half of replica_net_timeout",
                    "an idle source looks like a lost one",
                ),
                Some(millis) if millis >= seconds.saturating_mul(1000) => complain(
                    "heartbeat period",
                    &format!("{millis} ms"),
                    "half of replica_net_timeout",
                    "an idle source looks like a lost one",
                ),
                Some(_) | None => {}
            }
        }
    }
    let lacks_acknowledgements = semi_sync.wait_no_replica && semi_sync.clients < semi_sync.wait_for_count.max(1);
    if is_replica && semi_sync.source_enabled && lacks_acknowledgements {
        complain(
            "semi-sync source",
            &"enabled",
            "disabled on a replica",
            "its applier waits for acknowledgements from replicas that it does not have",
        );
    }
    let twin = topology.instances.values().find(|other| {
        let same = |other: &&InstanceFacts| other.server_id == facts.server_id && other.identity != facts.identity;
        other.key != instance.key && other.valid_facts().as_ref().is_some_and(same)
    });
    if let Some(twin) = twin {
        complain(
            "server_id",
            &facts.server_id,
            "a unique value",
            &format!(
                "{} has the same, and a source disconnects one of two replicas with the same id",
                twin.key
            ),
        );
    }
    (!complaints.is_empty()).then(|| format!("{}: {}", instance.key, complaints.join("; ")))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
