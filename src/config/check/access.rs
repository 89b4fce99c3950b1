//! The keys for write access to the API and for the health listener.

use std::net::IpAddr;
use std::path::Path;

use crate::app::api::write_tokens::WriteTokens;

use super::super::file::File;
use super::super::settings::WriteTokenFile;
use super::Check;

/// The port of `host:port` or `:port`.
pub(super) fn port(listen: &str) -> Option<u16> {
    listen.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

/// The warning at startup about an API that accepts unauthenticated changes from the network.
pub(super) fn open_api(file: &File) -> Option<String> {
    let keys = &file.listener;
    let host = keys.ListenAddress.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_open = keys.APIWriteTokenFile.is_empty() && !keys.ReadOnly && !is_local;
    is_open.then(|| {
        format!(
            "configuration: the API at {} accepts unauthenticated changes; set APIWriteTokenFile",
            keys.ListenAddress
        )
    })
}

impl Check<'_> {
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
