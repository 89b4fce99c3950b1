//! The table of commands: the request of each, and how its answer is printed.

use std::collections::BTreeMap;

use serde_json::Value;

use super::arguments::Settings;
use super::print::{self, field, indented, items, key, key_line, keys, lines, plain};
use super::request::{Answer, Request};
use crate::domain::explain::Explanation;

/// One command.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// The request; none for a command that needs no answer.
    pub request: fn(&Settings) -> Result<Option<Request>, String>,
    /// How the answer is printed.
    pub print: fn(&Answer, &Settings) -> String,
}

/// Finds a command by its name.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// The commands with their descriptions, one per line.
pub fn listing() -> String {
    let width = COMMANDS
        .iter()
        .map(|command| command.name.len())
        .max()
        .unwrap_or_default();
    lines(
        COMMANDS
            .iter()
            .map(|command| format!("{:width$}  {}", command.name, command.about)),
    )
}

// === what to ask for ===

type Asked = Result<Option<Request>, String>;

fn read(parts: &[&str]) -> Request {
    Request {
        path: parts.iter().map(ToString::to_string).collect(),
        ..Request::default()
    }
}

fn write(parts: &[&str]) -> Request {
    Request {
        mutates: true,
        ..read(parts)
    }
}

impl Request {
    fn about(mut self, instance: &crate::domain::key::InstanceKey) -> Self {
        self.path.extend([instance.hostname.clone(), instance.port.to_string()]);
        self
    }

    fn part(mut self, text: String) -> Self {
        self.path.push(text);
        self
    }

    fn parameter(mut self, name: &'static str, value: String) -> Self {
        self.query.push((name, value));
        self
    }
}

fn of_instance(request: Request, settings: &Settings) -> Asked {
    Ok(Some(request.about(&settings.key()?)))
}

fn of_cluster(request: Request, settings: &Settings) -> Asked {
    Ok(Some(request.part(settings.hint()?)))
}

fn acknowledged(request: Request, settings: &Settings) -> Asked {
    Ok(Some(request.parameter("comment", settings.reason()?)))
}

fn recovery(route: &str, settings: &Settings) -> Asked {
    let request = write(&[route]).about(&settings.key()?);
    Ok(Some(match settings.destination_key()? {
        Some(candidate) => request.about(&candidate),
        None => request,
    }))
}

/// A change of the primary of a cluster, by hint; with the new primary when one is given.
fn change_of_primary(route: &str, settings: &Settings) -> Asked {
    let request = write(&[route]).part(settings.hint()?);
    Ok(Some(match settings.destination_key()? {
        Some(target) => request.about(&target),
        None => request,
    }))
}

fn designated_change_of_primary(route: &str, settings: &Settings) -> Asked {
    if settings.destination.is_none() {
        return Err("destination must be provided: -d host:port".to_owned());
    }
    change_of_primary(route, settings)
}

/// Moves a replica, or all replicas of a server, below another server.
fn below(route: &str, settings: &Settings) -> Asked {
    let target = settings.destination_key()?;
    let target = target.ok_or_else(|| "destination must be provided: -d host:port".to_owned())?;
    Ok(Some(write(&[route]).about(&settings.key()?).about(&target)))
}

fn api(settings: &Settings) -> Asked {
    let path = settings.path.as_deref().ok_or("path must be provided: -P path")?;
    // A path of one's own may change something: it is treated so.
    Ok(Some(Request {
        written: Some(path.to_owned()),
        mutates: true,
        ..Request::default()
    }))
}

// === how to print ===

fn print_keys(answer: &Answer, _: &Settings) -> String {
    keys(answer.details())
}

fn print_key(answer: &Answer, _: &Settings) -> String {
    key_line(answer.details())
}

fn print_text(answer: &Answer, _: &Settings) -> String {
    lines([plain(answer.details())])
}

fn print_json(answer: &Answer, _: &Settings) -> String {
    indented(&answer.text)
}

fn print_successor(answer: &Answer, _: &Settings) -> String {
    answer.details().get("SuccessorKey").map(key_line).unwrap_or_default()
}

/// A replica and its source, as orchestrator prints them.
fn print_moved(answer: &Answer, _: &Settings) -> String {
    let source = answer.details().get("MasterKey").map(key).unwrap_or_default();
    lines([format!("{}<{source}", print::key(answer.details()))])
}

fn print_names(answer: &Answer, _: &Settings) -> String {
    lines(items(answer.details()).iter().map(plain))
}

fn print_asked(_: &Answer, settings: &Settings) -> String {
    lines(settings.key().map(|key| key.to_string()))
}

fn truth(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn is_replica(instance: &Value) -> bool {
    instance.get("MasterKey").is_some_and(|source| !key(source).is_empty())
}

fn print_if(answer: &Answer, holds: impl Fn(&Value) -> bool) -> String {
    let instance = answer.details();
    if holds(instance) {
        key_line(instance)
    } else {
        String::new()
    }
}

fn print_findings(answer: &Answer, _: &Settings) -> String {
    let line = |entry: &Value| {
        let code = entry.get("Analysis").map(plain).filter(|code| code != "NoProblem");
        let structure = entry
            .get("StructureAnalysis")
            .map(items)
            .unwrap_or_default()
            .iter()
            .map(plain);
        let cluster = entry
            .get("ClusterDetails")
            .map(|cluster| field(cluster, "ClusterName"))
            .unwrap_or_default();
        let all: Vec<String> = code.into_iter().chain(structure).collect();
        let instance = entry.get("AnalyzedInstanceKey").map(key).unwrap_or_default();
        format!("{instance} (cluster {cluster}): {}", all.join(", "))
    };
    lines(items(answer.details()).iter().map(line))
}

/// The text form; an answer with another format is printed as received.
fn print_explanation(answer: &Answer, settings: &Settings) -> String {
    if settings.json {
        return indented(&answer.text);
    }
    let told = if answer.details().is_array() {
        serde_json::from_value::<Vec<Explanation>>(answer.details().clone())
    } else {
        serde_json::from_value::<Explanation>(answer.details().clone()).map(|only| vec![only])
    };
    match told {
        Ok(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        Err(_) => indented(&answer.text),
    }
}

fn print_broken(answer: &Answer, _: &Settings) -> String {
    let is_broken = |replica: &&Value| {
        let stopped = !truth(replica, "ReplicationSQLThreadRuning") || !truth(replica, "ReplicationIOThreadRuning");
        stopped && (!field(replica, "LastSQLError").is_empty() || !field(replica, "LastIOError").is_empty())
    };
    items(answer.details()).iter().filter(is_broken).map(key_line).collect()
}

fn print_dominant_data_center(answer: &Answer, _: &Settings) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for primary in items(answer.details()) {
        *counts.entry(field(primary, "DataCenter")).or_default() += 1;
    }
    // Of equal counts the first name wins, so that two calls say the same.
    let most = counts.values().max().copied().unwrap_or_default();
    lines(
        counts
            .into_iter()
            .find(|(_, count)| *count == most)
            .map(|(name, _)| name),
    )
}

/// `key:value`, as orchestrator's client prints pairs.
fn print_pairs(answer: &Answer, _: &Settings) -> String {
    lines(
        items(answer.details())
            .iter()
            .map(|pair| format!("{}:{}", field(pair, "Key"), field(pair, "Value"))),
    )
}

fn print_rules(answer: &Answer, _: &Settings) -> String {
    lines(
        items(answer.details())
            .iter()
            .map(|rule| format!("{} {}", print::key(rule), field(rule, "PromotionRule"))),
    )
}

// === the table ===

#[rustfmt::skip]
static COMMANDS: &[Command] = &[
    Command { name: "help", about: "Lists the commands", request: |_| Ok(None), print: print_text },
    Command { name: "which-api", about: "Prints the endpoint in use: the leader's, when several are given", request: |_| Ok(None), print: print_text },
    Command { name: "api", about: "Calls any route (-P path) and prints the answer as JSON", request: api, print: print_json },

    Command { name: "clusters", about: "Lists clusters by name", request: |_| Ok(Some(read(&["clusters"]))), print: print_names },
    Command { name: "clusters-alias", about: "Lists clusters as name,alias", request: |_| Ok(Some(read(&["clusters-info"]))),
        print: |answer, _| lines(items(answer.details()).iter().map(|info| format!("{},{}", field(info, "ClusterName"), field(info, "ClusterAlias")))) },
    Command { name: "all-clusters-masters", about: "Lists the writable primaries, one of each cluster", request: |_| Ok(Some(read(&["masters"]))), print: print_keys },
    Command { name: "all-instances", about: "Lists all instances", request: |_| Ok(Some(read(&["all-instances"]))), print: print_keys },
    Command { name: "search", about: "Lists instances that match a text (-q or -i)",
        request: |settings| {
            let text = settings.query.clone().or_else(|| settings.instance.clone()).ok_or("text must be provided: -q text")?;
            Ok(Some(read(&["search"]).parameter("s", text)))
        },
        print: print_keys },
    Command { name: "topology", about: "Prints the topology of a cluster (-i or -a)", request: |settings| of_cluster(read(&["topology"]), settings), print: print_text },
    Command { name: "topology-tabulated", about: "Same as topology, in columns", request: |settings| of_cluster(read(&["topology-tabulated"]), settings), print: print_text },
    Command { name: "instance", about: "Prints all of an instance as JSON", request: |settings| of_instance(read(&["instance"]), settings), print: print_json },
    Command { name: "which-instance", about: "Prints the full name of an instance", request: |settings| of_instance(read(&["instance"]), settings), print: print_key },
    Command { name: "which-cluster", about: "Prints the name of a cluster (-i or -a)", request: |settings| of_cluster(read(&["cluster-info"]), settings),
        print: |answer, _| lines([field(answer.details(), "ClusterName")]) },
    Command { name: "which-cluster-alias", about: "Prints the alias of a cluster", request: |settings| of_cluster(read(&["cluster-info"]), settings),
        print: |answer, _| lines([field(answer.details(), "ClusterAlias")]) },
    Command { name: "which-cluster-domain", about: "Prints the domain of a cluster", request: |settings| of_cluster(read(&["cluster-info"]), settings),
        print: |answer, _| lines([field(answer.details(), "ClusterDomain")]) },
    Command { name: "which-cluster-master", about: "Prints the primary of a cluster", request: |settings| of_cluster(read(&["master"]), settings), print: print_key },
    Command { name: "which-cluster-instances", about: "Lists the instances of a cluster", request: |settings| of_cluster(read(&["cluster"]), settings), print: print_keys },
    Command { name: "which-master", about: "Prints the source of an instance", request: |settings| of_instance(read(&["instance"]), settings),
        print: |answer, _| answer.details().get("MasterKey").map(key_line).unwrap_or_default() },
    Command { name: "which-replicas", about: "Lists the direct replicas of an instance", request: |settings| of_instance(read(&["instance-replicas"]), settings), print: print_keys },
    Command { name: "which-broken-replicas", about: "Lists the direct replicas that stopped with an error", request: |settings| of_instance(read(&["instance-replicas"]), settings), print: print_broken },
    Command { name: "which-gtid-errant", about: "Prints the errant GTID set of an instance", request: |settings| of_instance(read(&["instance"]), settings),
        print: |answer, _| lines([field(answer.details(), "GtidErrant")]) },
    Command { name: "errant", about: "Prints the content of the errant transactions of an instance as JSON", request: |settings| of_instance(read(&["errant"]), settings), print: print_json },
    Command { name: "locate-gtid-errant", about: "Lists the binary logs that have errant transactions", request: |settings| of_instance(read(&["locate-gtid-errant"]), settings), print: print_names },
    Command { name: "gtid-errant-inject-empty", about: "Injects empty transactions for the errant transactions on the primary", request: |settings| of_instance(write(&["gtid-errant-inject-empty"]), settings), print: print_key },
    Command { name: "gtid-errant-reset-master", about: "Removes the errant transactions from the GTID set of an instance; its data stay different", request: |settings| of_instance(write(&["gtid-errant-reset-master"]), settings), print: print_key },
    Command { name: "errant-forget", about: "Releases an instance from quarantine as it is", request: |settings| of_instance(write(&["errant-forget"]), settings), print: print_key },
    Command { name: "last-pseudo-gtid", about: "Prints the last Pseudo-GTID entry that an instance has", request: |settings| of_instance(read(&["last-pseudo-gtid"]), settings), print: print_text },
    Command { name: "match", about: "Moves a replica below another server (-d) by Pseudo-GTID", request: |settings| below("match", settings), print: print_moved },
    Command { name: "match-below", about: "Same as match", request: |settings| below("match-below", settings), print: print_moved },
    Command { name: "match-up", about: "Moves a replica below its source's source by Pseudo-GTID", request: |settings| of_instance(write(&["match-up"]), settings), print: print_moved },
    Command { name: "match-replicas", about: "Moves all replicas of an instance below another server (-d) by Pseudo-GTID and prints that server",
        request: |settings| below("match-replicas", settings), print: print_key },
    Command { name: "match-up-replicas", about: "Moves all replicas of an instance below its source and prints the source", request: |settings| of_instance(write(&["match-up-replicas"]), settings), print: print_key },
    Command { name: "is-replicating", about: "Prints the instance if it replicates", request: |settings| of_instance(read(&["instance"]), settings),
        print: |answer, _| print_if(answer, |it| truth(it, "ReplicationSQLThreadRuning") && truth(it, "ReplicationIOThreadRuning")) },
    Command { name: "is-replication-stopped", about: "Prints the instance if it is a replica with both threads stopped", request: |settings| of_instance(read(&["instance"]), settings),
        print: |answer, _| print_if(answer, |it| is_replica(it) && !truth(it, "ReplicationSQLThreadRuning") && !truth(it, "ReplicationIOThreadRuning")) },
    Command { name: "dominant-dc", about: "Prints the data centre of most primaries", request: |_| Ok(Some(read(&["masters"]))), print: print_dominant_data_center },
    Command { name: "bulk-instances", about: "Lists the addresses of all instances", request: |_| Ok(Some(read(&["bulk-instances"]))), print: print_keys },
    Command { name: "bulk-promotion-rules", about: "Lists promotion rules", request: |_| Ok(Some(read(&["bulk-promotion-rules"]))), print: print_rules },

    Command { name: "discover", about: "Probes an instance and adds it", request: |settings| of_instance(write(&["discover"]), settings), print: print_key },
    Command { name: "async-discover", about: "Same as discover, without waiting for the probe", request: |settings| of_instance(write(&["async-discover"]), settings), print: print_asked },
    Command { name: "refresh", about: "Probes a known instance now", request: |settings| of_instance(write(&["refresh"]), settings), print: print_key },
    Command { name: "forget", about: "Forgets an instance", request: |settings| of_instance(write(&["forget"]), settings), print: print_key },
    Command { name: "forget-cluster", about: "Forgets a cluster (-i or -a)", request: |settings| of_cluster(write(&["forget-cluster"]), settings), print: print_text },

    Command { name: "split-cluster", about: "Makes a cluster of an instance and all that replicates from it, and prints its id", request: |settings| of_instance(write(&["split-cluster"]), settings), print: print_text },
    Command { name: "merge-clusters", about: "Merges two clusters (-i or -a, -d cluster) and prints the id of the one that remains",
        request: |settings| {
            let other = settings.destination.clone().ok_or("the other cluster must be provided: -d cluster")?;
            Ok(Some(write(&["merge-clusters"]).part(settings.hint()?).part(other)))
        },
        print: print_text },

    Command { name: "begin-downtime", about: "Excludes an instance from recoveries (-r reason, -u duration, -o owner)",
        request: |settings| {
            let request = write(&["begin-downtime"]).about(&settings.key()?).part(settings.owner.clone()).part(settings.reason()?);
            Ok(Some(request.part(settings.duration.clone())))
        },
        print: print_key },
    Command { name: "end-downtime", about: "Ends the downtime of an instance", request: |settings| of_instance(write(&["end-downtime"]), settings), print: print_key },
    Command { name: "downtimed", about: "Lists instances in downtime (of one cluster with -i or -a)",
        request: |settings| Ok(Some(settings.hint_if_given().map_or_else(|| read(&["downtimed"]), |hint| read(&["downtimed"]).part(hint)))),
        print: print_keys },
    Command { name: "which-downtimed-instances", about: "Same as downtimed",
        request: |settings| Ok(Some(settings.hint_if_given().map_or_else(|| read(&["downtimed"]), |hint| read(&["downtimed"]).part(hint)))),
        print: print_keys },
    Command { name: "which-lost-in-recovery", about: "Lists instances that a recovery left behind",
        request: |settings| Ok(Some(settings.hint_if_given().map_or_else(|| read(&["downtimed"]), |hint| read(&["downtimed"]).part(hint)))),
        print: |answer, _| items(answer.details()).iter().filter(|it| field(it, "DowntimeReason") == "lost-in-recovery").map(key_line).collect() },
    Command { name: "register-candidate", about: "Sets the promotion rule of an instance (-R rule)",
        request: |settings| {
            let rule = settings.promotion_rule.clone().ok_or("promotion rule must be provided: -R rule")?;
            Ok(Some(write(&["register-candidate"]).about(&settings.key()?).part(rule)))
        },
        print: print_key },

    Command { name: "explain", about: "Shows what would happen if the primary failed now, and what prevents it (-i or -a; without: all clusters; -j for JSON)", 
        request: |settings| Ok(Some(settings.hint_if_given().map_or_else(|| read(&["explain"]), |hint| read(&["explain"]).part(hint)))),
        print: print_explanation },
    Command { name: "replication-analysis", about: "Lists failures and structure warnings", request: |_| Ok(Some(read(&["replication-analysis"]))), print: print_findings },
    Command { name: "recover", about: "Recovers a failed instance now (-d candidate) and prints the successor", request: |settings| recovery("recover", settings), print: print_key },
    Command { name: "recover-lite", about: "Same as recover, without hooks", request: |settings| recovery("recover-lite", settings), print: print_key },
    Command { name: "graceful-master-takeover", about: "Promotes a replica in place of a running primary (-i or -a, -d target) and prints the successor; replication on the old primary stays stopped",
        request: |settings| change_of_primary("graceful-master-takeover", settings), print: print_successor },
    Command { name: "graceful-master-takeover-auto", about: "Same; without -d the target is chosen, and the old primary starts replicating",
        request: |settings| change_of_primary("graceful-master-takeover-auto", settings), print: print_successor },
    Command { name: "force-master-failover", about: "Replaces a primary as if it had failed (-i or -a) and prints the successor",
        request: |settings| of_cluster(write(&["force-master-failover"]), settings), print: print_successor },
    Command { name: "force-master-takeover", about: "Same, by promoting a direct replica (-d target)",
        request: |settings| designated_change_of_primary("force-master-takeover", settings), print: print_successor },
    Command { name: "ack-all-recoveries", about: "Acknowledges all recoveries (-r comment)", request: |settings| acknowledged(write(&["ack-all-recoveries"]), settings), print: print_text },
    Command { name: "ack-cluster-recoveries", about: "Acknowledges the recoveries of one cluster (-i or -a)",
        request: |settings| acknowledged(write(&["ack-recovery", "cluster"]).part(settings.hint()?), settings), print: print_text },
    Command { name: "ack-instance-recoveries", about: "Acknowledges the recoveries of one failed instance",
        request: |settings| acknowledged(write(&["ack-recovery", "instance"]).about(&settings.key()?), settings), print: print_key },
    Command { name: "submit-masters-to-kv-stores", about: "Publishes the primaries again, or that of one cluster (-i or -a), and prints the pairs of key-value stores",
        request: |settings| {
            let request = write(&["submit-masters-to-kv-stores"]);
            Ok(Some(match settings.hint_if_given() {
                Some(hint) => request.part(hint),
                None => request,
            }))
        },
        print: print_pairs },
    Command { name: "reelect", about: "Makes the leader hand over to another member", request: |_| Ok(Some(write(&["reelect"]))), print: print_text },
    Command { name: "disable-global-recoveries", about: "Disables recoveries for all clusters", request: |_| Ok(Some(write(&["disable-global-recoveries"]))), print: print_text },
    Command { name: "enable-global-recoveries", about: "Enables recoveries for all clusters", request: |_| Ok(Some(write(&["enable-global-recoveries"]))), print: print_text },
    Command { name: "check-global-recoveries", about: "Prints whether recoveries are enabled", request: |_| Ok(Some(read(&["check-global-recoveries"]))), print: print_text },

    Command { name: "raft-leader", about: "Prints the peer address of the leader", request: |_| Ok(Some(read(&["raft-leader"]))), print: print_text },
    Command { name: "raft-leader-hostname", about: "Prints the name of the leader", request: |_| Ok(Some(read(&["health"]))),
        print: |answer, _| lines(answer.details().get("ActiveNode").map(|node| field(node, "Hostname"))) },
    Command { name: "raft-health", about: "Prints whether the member is a healthy part of its group", request: |_| Ok(Some(read(&["raft-health"]))), print: print_text },
];
