//! The keys for write access to the API and for the health listener.

use std::net::IpAddr;
use std::path::Path;

use crate::app::api::write_tokens::WriteTokens;
use crate::domain::key::InstanceKey;

use super::super::file::File;
use super::super::settings::WriteTokenFile;
use super::Check;

/// The port of `host:port` or `:port`.
pub(super) fn port(listen: &str) -> Option<u16> {
    listen.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

/// Whether only this machine reaches a listener at `host:port`.
fn is_local(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether clients on other machines may change something without a token.
fn is_api_open(file: &File) -> bool {
    let keys = &file.listener;
    keys.APIWriteTokenFile.is_empty() && !keys.ReadOnly && !is_local(&keys.ListenAddress)
}

/// Whether processes on other machines may act as members without a key.
fn is_group_open(file: &File) -> bool {
    let keys = &file.group;
    let bind = InstanceKey::parse(&keys.RaftBind, keys.DefaultRaftPort).map(|bind| bind.to_string());
    keys.RaftEnabled && keys.RaftGroupKeyFile.is_empty() && bind.is_ok_and(|bind| !is_local(&bind))
}

fn open_api(file: &File) -> String {
    format!(
        "configuration: the API at {} accepts unauthenticated changes; set APIWriteTokenFile",
        file.listener.ListenAddress
    )
}

fn open_group(file: &File) -> String {
    format!(
        "configuration: the peer listener at {} accepts members without authentication; set RaftGroupKeyFile on all members",
        file.group.RaftBind
    )
}

/// The warnings at startup about listeners that the configuration opens on purpose.
pub(super) fn permitted(file: &File) -> Vec<String> {
    let api = (file.listener.APIOpen && is_api_open(file)).then(|| open_api(file));
    let group = (file.group.RaftInsecure && is_group_open(file)).then(|| open_group(file));
    api.into_iter().chain(group).collect()
}

impl Check<'_> {
    /// Refuses listeners that are open to the network by omission. A file that was written for orchestrator starts as it did there: its
    /// open listeners are returned as warnings.
    pub(super) fn open_listeners(&mut self, file: &File) -> Vec<String> {
        let api = (!file.listener.APIOpen && is_api_open(file)).then(|| open_api(file));
        let group = (!file.group.RaftInsecure && is_group_open(file)).then(|| open_group(file));
        if file.is_orchestrators {
            return api.into_iter().chain(group).collect();
        }
        if api.is_some() {
            let what = format!(
                "required, because other machines reach the API at {}; set it, or \"APIOpen\": true to accept unauthenticated changes",
                file.listener.ListenAddress
            );
            self.wrong("APIWriteTokenFile", what);
        }
        if group.is_some() {
            let what = format!(
                "required, because other machines reach the peer listener at {}; set it on all members, or \"RaftInsecure\": true to \
                 accept members without authentication",
                file.group.RaftBind
            );
            self.wrong("RaftGroupKeyFile", what);
        }
        Vec::new()
    }

    pub(super) fn write_tokens(&mut self, file: &File) -> Option<WriteTokenFile> {
        let name = file.listener.APIWriteTokenFile.as_str();
        if name.is_empty() {
            return None;
        }
        let read = std::fs::read_to_string(name).map_err(|error| format!("cannot read {name}: {error}"));
        let tokens = read.and_then(|text| WriteTokens::parse(&text).map_err(|why| format!("{name}: {why}")));
        tokens
            .map_err(|why| self.wrong("APIWriteTokenFile", why))
            .ok()
            .map(|tokens| WriteTokenFile {
                path: Path::new(name).to_owned(),
                tokens,
            })
    }

    pub(super) fn health_listen(&mut self, file: &File) -> Option<String> {
        let address = file.listener.HealthListenAddress.as_str();
        if address.is_empty() {
            return None;
        }
        if port(address).is_none() {
            self.wrong(
                "HealthListenAddress",
                format!("`{address}` has no port; use host:port or :port"),
            );
        }
        Some(address.to_owned())
    }
}
