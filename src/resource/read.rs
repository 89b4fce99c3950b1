//! Converts a document from an API server or a file into the types of the domain. It is parsed once; no later code reads the raw document.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::domain::declared::{
    DeclaredCandidate, DeclaredCluster, DeclaredDowntime, DeclaredServices, DeclaredTakeover, FORCE_ANNOTATION,
    ObservedBy, SecretState, Tls, optional_fields,
};
use crate::domain::intent::{Origin, PromotionRule};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{
    BootReadOnly, Durability, DurabilityMode, EventsPolicy, LossPolicy, OldPrimary, OnDrain, RecoveryMode,
    StalledPrimary,
};
use crate::domain::state::Document;
use crate::domain::time::WallTime;

use super::definition::says_nothing;
use super::spec::{self, MySQLClusterSpec};
use super::status::MySQLClusterStatus;

/// The longest catch-up time of a target, seconds: no client can write meanwhile.
const MAX_CATCH_UP_SECONDS: u64 = 3600;

/// A document that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}", .origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default())]
pub struct DocumentFault {
    /// Which document, when namespace and name can be read.
    pub origin: Option<Origin>,
    /// Where and why.
    pub why: String,
}

/// A parsed document.
#[derive(Clone, Debug)]
pub struct ReadDocument {
    /// Its content.
    pub declared: DeclaredCluster,
    /// The status that was written last; `None` when there is none or it cannot be read.
    pub status: Option<MySQLClusterStatus>,
    /// Unknown fields of the spec: mistyped, or of a later version.
    pub unknown: Vec<String>,
}

/// Reads a whole document. `default_namespace` stands in for a missing `metadata.namespace`.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn document(value: &Value, default_namespace: &str) -> Result<ReadDocument, DocumentFault> {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    let name = text("/metadata/name").filter(|name| !name.is_empty());
    let origin = name.map(|name| Origin::Document {
        namespace: text("/metadata/namespace")
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or(default_namespace)
            .to_owned(),
        name: name.to_owned(),
    });
    let fault = |why: String| DocumentFault {
        origin: origin.clone(),
        why,
    };
    let Some(Origin::Document { namespace, name }) = &origin else {
        return Err(fault("metadata.name is missing".to_owned()));
    };
    // Names become file names and label values; the API server refuses others, a directory does not.
    if let Some(bad) = [namespace, name].into_iter().find(|text| !is_name(text)) {
        return Err(DocumentFault {
            origin: None,
            why: format!("`{bad}` is no name: lower case letters, digits, - and . only, at most 253"),
        });
    }
    let origin = Origin::Document {
        namespace: namespace.clone(),
        name: name.clone(),
    };
    let api_version = text("/apiVersion").unwrap_or_default();
    if api_version != super::API_VERSION || text("/kind") != Some(super::KIND) {
        return Err(fault(format!("apiVersion {api_version} is not {}", super::API_VERSION)));
    }
    let mut unknown = Vec::new();
    let raw = value.get("spec").ok_or_else(|| fault("spec is missing".to_owned()))?;
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(raw, &mut track);
    let parsed: Result<MySQLClusterSpec, _> =
        serde_ignored::deserialize(deserializer, |path| unknown.push(format!("spec.{path}")));
    let spec = parsed.map_err(|why| {
        let path = track.path().to_string();
        fault(if path == "." {
            format!("spec: {why}")
        } else {
            format!("spec.{path}: {why}")
        })
    })?;
    // A status that cannot be read is one of another version; what matters of it is written anew.
    let status = value
        .get("status")
        .and_then(|status| serde_json::from_value::<MySQLClusterStatus>(status.clone()).ok());
    let mut declared = declared(&spec, origin).map_err(fault)?;
    declared.absent = optional_fields().filter(|path| says_nothing(value, path)).collect();
    text("/metadata/uid")
        .unwrap_or_default()
        .clone_into(&mut declared.document.uid);
    declared.document.generation = value
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or_default();
    declared.created = text("/metadata/creationTimestamp")
        .and_then(|time| time.parse::<jiff::Timestamp>().ok())
        .map(|time| WallTime(time.as_millisecond()));
    let annotations = value.pointer("/metadata/annotations");
    declared.force = annotations
        .and_then(|annotations| annotations.get(FORCE_ANNOTATION)?.as_str())
        .filter(|text| !text.is_empty())
        .map(ToOwned::to_owned);
    declared.observed_by = status
        .as_ref()
        .and_then(|status| status.observer.as_ref())
        .and_then(|observer| {
            let renewed = WallTime(observer.renewed_at.as_ref()?.0.as_millisecond());
            Some(ObservedBy {
                cluster_uuid: observer.cluster_uuid.clone(),
                renewed,
            })
        });
    Ok(ReadDocument {
        declared,
        status,
        unknown,
    })
}

/// The spec in types of the domain. Everything that the schema forbids is refused here too: files are not checked by an API server,
/// and an object may be older than the schema.
fn declared(spec: &MySQLClusterSpec, origin: Origin) -> Result<DeclaredCluster, String> {
    let mut seeds = BTreeSet::new();
    for (index, seed) in spec.seeds.iter().enumerate() {
        if !seeds.insert(key(&seed.host, seed.port).map_err(|why| format!("spec.seeds[{index}]: {why}"))?) {
            return Err(format!(
                "spec.seeds[{index}]: {}:{} stands there twice",
                seed.host, seed.port
            ));
        }
    }
    if seeds.is_empty() {
        return Err("spec.seeds: at least one seed is needed".to_owned());
    }
    if spec.credentials_secret_ref.name.is_empty() {
        return Err("spec.credentialsSecretRef.name: is empty".to_owned());
    }
    let services = services(spec, &origin)?;
    let recovery = &spec.recovery;
    let document = Document {
        origin,
        uid: String::new(),
        created: WallTime::default(),
        generation: 0,
        seeds,
        credentials_secret: spec.credentials_secret_ref.name.clone(),
        paused: spec.paused,
        mode: match recovery.mode {
            spec::Mode::Auto => RecoveryMode::Auto,
            spec::Mode::DetectOnly => RecoveryMode::DetectOnly,
            spec::Mode::Off => RecoveryMode::Off,
        },
        block_millis: millis(&recovery.block_for).map_err(|why| format!("spec.recovery.blockFor: {why}"))?,
        loss: match recovery.loss_policy {
            None => LossPolicy::Auto,
            Some(spec::LossPolicy::Refuse) => LossPolicy::Refuse,
            Some(spec::LossPolicy::AllowAfterTimeout) => LossPolicy::AllowAfterTimeout,
            Some(spec::LossPolicy::Allow) => LossPolicy::Allow,
        },
        loss_timeout_millis: millis(&recovery.loss_timeout)
            .map_err(|why| format!("spec.recovery.lossTimeout: {why}"))?,
        old_primary: match recovery.old_primary {
            spec::OldPrimary::Hold => OldPrimary::Hold,
            spec::OldPrimary::Rejoin => OldPrimary::Rejoin,
        },
        boot_read_only: match recovery.boot_read_only {
            spec::BootReadOnly::Enforce => BootReadOnly::Enforce,
            spec::BootReadOnly::Advise => BootReadOnly::Advise,
            spec::BootReadOnly::Off => BootReadOnly::Off,
        },
        stalled: recovery.stalled_primary.map(|stalled| match stalled {
            spec::StalledPrimary::Observe => StalledPrimary::Observe,
            spec::StalledPrimary::Failover => StalledPrimary::Failover,
        }),
        events: recovery.events.map(|events| match events {
            spec::EventsPolicy::Enable => EventsPolicy::Enable,
            spec::EventsPolicy::Leave => EventsPolicy::Leave,
        }),
        on_drain: match recovery.on_drain {
            spec::OnDrain::Observe => OnDrain::Observe,
            spec::OnDrain::TakeOver => OnDrain::TakeOver,
        },
        durability: spec.durability.map(durability).transpose()?,
        services: None,
    };
    Ok(DeclaredCluster {
        document,
        created: None,
        downtime: downtime(&spec.downtime)?,
        candidates: candidates(&spec.candidates)?,
        takeover: spec.takeover.as_ref().map(takeover).transpose()?,
        acknowledged: spec.recovery.acknowledged.clone().filter(|uid| !uid.is_empty()),
        force: None,
        services,
        tls: match spec.tls.mode {
            spec::TlsMode::Off => Tls::Off,
            spec::TlsMode::Preferred => Tls::Preferred,
            spec::TlsMode::Required => Tls::Required,
            spec::TlsMode::Verify => Tls::Verify,
        },
        secret: SecretState::Unread,
        absent: BTreeSet::new(),
        observed_by: None,
    })
}

fn services(spec: &MySQLClusterSpec, origin: &Origin) -> Result<Option<DeclaredServices>, String> {
    let (Some(asked), Origin::Document { name: own, .. }) = (&spec.primary_service, origin) else {
        return Ok(None);
    };
    let named = |field: &str, name: &String| {
        let is_label = name.len() <= 63 && !name.contains('.') && is_name(name);
        if is_label && name.starts_with(|first: char| first.is_ascii_lowercase()) {
            Ok(name.clone())
        } else {
            Err(format!(
                "spec.primaryService.{field}: `{name}` is no name of a Service: lower case letters, digits and -, a letter first, at most 63"
            ))
        }
    };
    // Dots are allowed in names of resources and not in those of Services.
    let default = || format!("{}-primary", own.replace('.', "-"));
    let name = asked.name.as_ref().map(|name| named("name", name)).transpose()?;
    let replicas = asked.replicas_name.as_ref().map(|name| named("replicasName", name));
    let services = DeclaredServices {
        primary: name.unwrap_or_else(default),
        port: u16::try_from(asked.port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("spec.primaryService.port: {} is not within 1 to 65535", asked.port))?,
        replicas: replicas.transpose()?,
    };
    if services.replicas.as_ref() == Some(&services.primary) {
        return Err(format!(
            "spec.primaryService.replicasName: {} is the name of the other Service",
            services.primary
        ));
    }
    Ok(Some(services))
}

fn takeover(asked: &spec::Takeover) -> Result<DeclaredTakeover, String> {
    let id = &asked.request_id;
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    let bytes = id.as_bytes();
    if id.len() > 64 || !is_edge(bytes.first()) || !is_edge(bytes.last()) || !id.bytes().all(is_inside) {
        return Err(format!(
            "spec.takeover.requestID: `{id}` is none: letters, digits and ._:- between them, at most 64"
        ));
    }
    let target = asked.target.as_ref().map(|target| key(&target.host, target.port));
    let catch_up = asked.catch_up_timeout.as_deref().map(millis);
    Ok(DeclaredTakeover {
        id: id.clone(),
        target: target
            .transpose()
            .map_err(|why| format!("spec.takeover.target: {why}"))?,
        catch_up_seconds: catch_up
            .transpose()
            .map_err(|why| format!("spec.takeover.catchUpTimeout: {why}"))?
            .map(|millis| millis.div_ceil(1000).min(MAX_CATCH_UP_SECONDS)),
        deadline: WallTime(asked.deadline.0.as_millisecond()),
    })
}

fn durability(wanted: spec::Durability) -> Result<Durability, String> {
    let count = u32::try_from(wanted.count)
        .ok()
        .filter(|count| (1..=64).contains(count));
    Ok(Durability {
        mode: match wanted.mode {
            spec::DurabilityMode::None => DurabilityMode::None,
            spec::DurabilityMode::SemiSync => DurabilityMode::SemiSync,
            spec::DurabilityMode::CrossDataCenter => DurabilityMode::CrossDataCenter,
        },
        count: count.ok_or_else(|| format!("spec.durability.count: {} is not from 1 to 64", wanted.count))?,
        strict: wanted.strict,
    })
}

fn downtime(entries: &[spec::Downtime]) -> Result<Vec<DeclaredDowntime>, String> {
    let mut seen = BTreeSet::new();
    let mut declared = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let instance = key(&entry.host, entry.port).map_err(|why| format!("spec.downtime[{index}]: {why}"))?;
        if entry.until.is_some() == entry.indefinite {
            return Err(format!(
                "spec.downtime[{index}]: a downtime needs either until or indefinite: true"
            ));
        }
        if !seen.insert(instance.clone()) {
            return Err(format!("spec.downtime[{index}]: {instance} stands there twice"));
        }
        declared.push(DeclaredDowntime {
            instance,
            owner: entry.owner.clone(),
            reason: entry.reason.clone(),
            until: entry.until.as_ref().map(|until| WallTime(until.0.as_millisecond())),
        });
    }
    Ok(declared)
}

fn candidates(entries: &[spec::Candidate]) -> Result<Vec<DeclaredCandidate>, String> {
    let mut seen = BTreeSet::new();
    let mut declared = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let instance = key(&entry.host, entry.port).map_err(|why| format!("spec.candidates[{index}]: {why}"))?;
        if !seen.insert(instance.clone()) {
            return Err(format!("spec.candidates[{index}]: {instance} stands there twice"));
        }
        let rule = match entry.promotion_rule {
            spec::PromotionRule::Must => PromotionRule::Must,
            spec::PromotionRule::Prefer => PromotionRule::Prefer,
            spec::PromotionRule::Neutral => PromotionRule::Neutral,
            spec::PromotionRule::PreferNot => PromotionRule::PreferNot,
            spec::PromotionRule::MustNot => PromotionRule::MustNot,
        };
        declared.push(DeclaredCandidate { instance, rule });
    }
    if declared
        .iter()
        .filter(|entry| entry.rule == PromotionRule::Must)
        .count()
        > 1
    {
        return Err("spec.candidates: at most one candidate may have the promotion rule Must".to_owned());
    }
    Ok(declared)
}

/// A name of the kind that the API server takes (RFC 1123 subdomain).
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        })
}

fn key(host: &str, port: i32) -> Result<InstanceKey, String> {
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "[]/@".contains(c)) {
        return Err(format!("host `{host}` is no host name or address"));
    }
    let port = u16::try_from(port)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("port {port} is not within 1 to 65535"))?;
    Ok(InstanceKey::new(host, port))
}

/// Milliseconds of a duration such as `90s` or `1h30m`.
pub(super) fn millis(text: &str) -> Result<u64, String> {
    let refused = || format!("`{text}` is no duration; write it like 90s, 30m or 1h30m");
    let mut total: u64 = 0;
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
        let (number, after) = rest.split_at(digits);
        if number.is_empty() || number.len() > 6 || parts == 4 {
            return Err(refused());
        }
        let unit_length = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_length);
        let factor: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(refused()),
        };
        let number: u64 = number.parse().map_err(|_| refused())?;
        total = total.saturating_add(number.saturating_mul(factor));
        rest = next;
        parts += 1;
    }
    if parts == 0 { Err(refused()) } else { Ok(total) }
}
