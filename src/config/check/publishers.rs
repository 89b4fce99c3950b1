//! The keys of key-value stores and of ProxySQL.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::SecretString;

use crate::config::file::File;
use crate::config::secret::Secret;
use crate::config::settings::{
    ConsulSettings, EtcdSettings, ProxySqlAction, ProxySqlSettings, PublisherSettings, TlsFileSettings,
    ZooKeeperSettings,
};
use crate::domain::key::InstanceKey;
use crate::domain::published_primary::KeyPrefix;

use super::Check;

/// The port of ZooKeeper when an address has none.
const ZOOKEEPER_PORT: u16 = 2181;
/// The longest prefix; a key has 255 characters in the table `kv_store`.
const MAX_PREFIX: usize = 100;

impl Check<'_> {
    pub(super) fn publishers(&mut self, file: &File) -> PublisherSettings {
        let keys = &file.publishers;
        let prefix = &keys.KVClusterMasterPrefix;
        if prefix.chars().count() > MAX_PREFIX || prefix.trim_end_matches('/').contains("//") {
            self.wrong(
                "KVClusterMasterPrefix",
                format!("must have {MAX_PREFIX} characters at most, and no empty part"),
            );
        }
        let settings = PublisherSettings {
            prefix: KeyPrefix::new(prefix),
            removes_before_failover: keys.KVRemoveBeforeFailover,
            fails_recovery: keys.FailRecoveryOnFailedPublication,
            consul: self.consul(file),
            etcd: self.etcd(file),
            zookeeper: self.zookeeper(file),
            proxysql: self.proxysql(file),
        };
        let has_any = settings.consul.is_some()
            || settings.etcd.is_some()
            || settings.zookeeper.is_some()
            || settings.proxysql.is_some();
        if settings.fails_recovery && !has_any {
            self.wrong(
                "FailRecoveryOnFailedPublication",
                "needs a place to publish to: set ConsulAddress, EtcdEndpoints, ZkAddress or ProxySQLAdminAddress",
            );
        }
        settings
    }

    fn consul(&mut self, file: &File) -> Option<ConsulSettings> {
        let keys = &file.publishers;
        if !matches!(keys.ConsulKVStoreProvider.as_str(), "consul" | "consul-txn") {
            let given = &keys.ConsulKVStoreProvider;
            self.wrong(
                "ConsulKVStoreProvider",
                format!("`{given}` is none of consul, consul-txn"),
            );
        }
        let scheme = keys.ConsulScheme.as_str();
        if !matches!(scheme, "http" | "https") {
            self.wrong("ConsulScheme", format!("`{scheme}` is none of http, https"));
        }
        let tls = self.tls_files(
            "Consul",
            [
                &keys.ConsulSSLCAFile,
                &keys.ConsulSSLCertFile,
                &keys.ConsulSSLPrivateKeyFile,
            ],
        );
        let token = self.secret("ConsulAclToken", &keys.ConsulAclToken);
        let given = keys.ConsulAddress.trim();
        if given.is_empty() {
            return None;
        }
        // Orchestrator passes the address to a library that accepts a scheme in it.
        let address = if given.contains("://") {
            given.to_owned()
        } else {
            format!("{scheme}://{given}")
        };
        Some(ConsulSettings {
            address: self.base_url("ConsulAddress", &address)?,
            token,
            all_data_centers: keys.ConsulCrossDataCenterDistribution,
            operations: usize::try_from(keys.ConsulMaxKVsPerTransaction.clamp(5, 64)).unwrap_or(64),
            tls,
        })
    }

    fn etcd(&mut self, file: &File) -> Option<EtcdSettings> {
        let keys = &file.publishers;
        let tls = self.tls_files(
            "Etcd",
            [&keys.EtcdSSLCAFile, &keys.EtcdSSLCertFile, &keys.EtcdSSLPrivateKeyFile],
        );
        let account = self
            .account("EtcdUser", &keys.EtcdUser, "EtcdPassword", &keys.EtcdPassword)
            .map(|account| (account.user, account.password));
        let given = keys.EtcdEndpoints.iter().filter(|endpoint| !endpoint.is_empty());
        let endpoints: Vec<String> = given
            .filter_map(|endpoint| self.base_url("EtcdEndpoints", endpoint))
            .collect();
        (!endpoints.is_empty()).then_some(EtcdSettings {
            endpoints,
            account,
            tls,
        })
    }

    fn zookeeper(&mut self, file: &File) -> Option<ZooKeeperSettings> {
        let keys = &file.publishers;
        let tls = self.tls_files(
            "Zk",
            [&keys.ZkSSLCAFile, &keys.ZkSSLCertFile, &keys.ZkSSLPrivateKeyFile],
        );
        let digest = self.secret("ZkDigest", &keys.ZkDigest);
        if let Some(digest) = &digest
            && !secrecy::ExposeSecret::expose_secret(digest).contains(':')
        {
            self.wrong(
                "ZkDigest",
                "must be user:password (the value is a secret and not shown)",
            );
        }
        let given = keys.ZkAddress.trim();
        if given.is_empty() {
            return None;
        }
        let (servers, root) = given.split_once('/').unwrap_or((given, ""));
        let servers: Vec<String> = servers
            .split(',')
            .map(str::trim)
            .filter(|server| !server.is_empty())
            .map(|server| self.peer("ZkAddress", server, ZOOKEEPER_PORT))
            .collect();
        if servers.is_empty() {
            self.wrong("ZkAddress", format!("`{given}` has no server; use host:2181"));
        }
        let root = root.trim_matches('/');
        Some(ZooKeeperSettings {
            servers,
            root: if root.is_empty() {
                String::new()
            } else {
                format!("/{root}")
            },
            digest,
            tls: keys.ZkUseTLS.then_some(tls),
        })
    }

    fn proxysql(&mut self, file: &File) -> Option<ProxySqlSettings> {
        let keys = &file.publishers;
        let action = match keys.ProxySQLPreFailoverAction.as_str() {
            "offline_soft" => ProxySqlAction::OfflineSoft,
            "weight_zero" => ProxySqlAction::WeightZero,
            "none" => ProxySqlAction::Nothing,
            other => {
                let why = format!("`{other}` is none of offline_soft, weight_zero, none");
                self.wrong("ProxySQLPreFailoverAction", why);
                ProxySqlAction::Nothing
            }
        };
        let mut clusters = BTreeMap::new();
        for (alias, groups) in &keys.ProxySQLClusterHostgroups {
            let key = format!("ProxySQLClusterHostgroups.{alias}");
            match self.hostgroups(&key, groups.writer, groups.reader) {
                Some(hostgroups) => drop(clusters.insert(alias.clone(), hostgroups)),
                None => self.wrong(&key, "needs a Writer other than 0"),
            }
        }
        let others = self.hostgroups(
            "ProxySQLReaderHostgroup",
            keys.ProxySQLWriterHostgroup,
            keys.ProxySQLReaderHostgroup,
        );
        self.check_distinct_writers(&clusters, others);
        let mut password = self.expand("ProxySQLAdminPassword", keys.ProxySQLAdminPassword.expose());
        let password_file = keys.ProxySQLAdminPasswordFile.as_str();
        if !password_file.is_empty() {
            match std::fs::read_to_string(password_file) {
                Ok(text) => text.trim().clone_into(&mut password),
                Err(error) => self.wrong(
                    "ProxySQLAdminPasswordFile",
                    format!("cannot read {password_file}: {error}"),
                ),
            }
        }
        let ca = self.existing_file("ProxySQLAdminSSLCAFile", &keys.ProxySQLAdminSSLCAFile);
        let mut admins = Vec::new();
        for address in keys
            .ProxySQLAdminAddress
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match InstanceKey::parse(address, keys.ProxySQLAdminPort) {
                Ok(admin) if admins.contains(&admin) => {
                    self.wrong("ProxySQLAdminAddress", format!("{admin} is in it twice"));
                }
                Ok(admin) => admins.push(admin),
                Err(error) => self.wrong("ProxySQLAdminAddress", error),
            }
        }
        if admins.is_empty() {
            return None;
        }
        if clusters.is_empty() && others.is_none() {
            self.wrong(
                "ProxySQLAdminAddress",
                "needs hostgroups: set ProxySQLWriterHostgroup or ProxySQLClusterHostgroups",
            );
        }
        Some(ProxySqlSettings {
            admins,
            user: keys.ProxySQLAdminUser.clone(),
            password: SecretString::from(password),
            tls: keys.ProxySQLAdminUseTLS.then_some(ca),
            clusters,
            others,
            action,
        })
    }

    /// Writer and reader hostgroup; 0 stands for none.
    fn hostgroups(&mut self, key: &str, writer: u32, reader: u32) -> Option<(u32, Option<u32>)> {
        if writer == reader && writer != 0 {
            self.wrong(key, format!("writers and readers have the same hostgroup {writer}"));
        }
        if writer == 0 && reader != 0 && key == "ProxySQLReaderHostgroup" {
            self.wrong(key, "needs ProxySQLWriterHostgroup");
        }
        (writer != 0).then_some((writer, Some(reader).filter(|reader| *reader != 0)))
    }

    /// Each cluster needs a writer hostgroup of its own.
    fn check_distinct_writers(
        &mut self,
        clusters: &BTreeMap<String, (u32, Option<u32>)>,
        others: Option<(u32, Option<u32>)>,
    ) {
        let mut seen: BTreeMap<u32, &str> = others
            .iter()
            .map(|(writer, _)| (*writer, "ProxySQLWriterHostgroup"))
            .collect();
        for (alias, (writer, _)) in clusters {
            if let Some(other) = seen.insert(*writer, alias) {
                self.wrong(
                    "ProxySQLClusterHostgroups",
                    format!("{alias} and {other} have the same writer hostgroup {writer}"),
                );
            }
        }
    }

    fn secret(&mut self, key: &str, secret: &Secret) -> Option<SecretString> {
        let text = self.expand(key, secret.expose());
        (!text.is_empty()).then(|| SecretString::from(text))
    }

    /// `scheme://host:port` without a path.
    fn base_url(&mut self, key: &str, text: &str) -> Option<String> {
        let url = reqwest::Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.host_str().is_some_and(|host| !host.is_empty())
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        if url.is_none() {
            self.wrong(
                key,
                "must be http or https, a host and a port, without path or account, as http://consul:8500",
            );
        }
        url.map(|url| url.as_str().trim_end_matches('/').to_owned())
    }

    fn existing_file(&mut self, key: &str, path: &str) -> Option<PathBuf> {
        if path.is_empty() {
            return None;
        }
        if let Err(error) = std::fs::metadata(path) {
            self.wrong(key, format!("cannot read {path}: {error}"));
        }
        Some(PathBuf::from(path))
    }

    /// The keys `{system}SSLCAFile`, `{system}SSLCertFile` and `{system}SSLPrivateKeyFile`.
    fn tls_files(&mut self, system: &str, [ca, certificate, private]: [&String; 3]) -> TlsFileSettings {
        let ca = self.existing_file(&format!("{system}SSLCAFile"), ca);
        let certificate_key = format!("{system}SSLCertFile");
        let certificate = self.existing_file(&certificate_key, certificate);
        let private = self.existing_file(&format!("{system}SSLPrivateKeyFile"), private);
        if certificate.is_some() != private.is_some() {
            self.wrong(
                &certificate_key,
                format!("set it together with {system}SSLPrivateKeyFile"),
            );
        }
        TlsFileSettings {
            ca,
            client: certificate.zip(private),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::check::settle;
    use crate::config::settings::Environment;

    fn read(keys: &str) -> Result<PublisherSettings, String> {
        let text = format!(r#"{{"SQLite3DataFile": ":memory:", "APIOpen": true, {keys}}}"#);
        let mut file = File::default();
        file.merge(Path::new("test"), &text)
            .map_err(|error| error.to_string())?;
        settle(&file, &Environment::default())
            .map(|settings| settings.publishers)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_published_unless_asked_for() {
        let usual = read(r#""Debug": false"#).unwrap();
        assert_eq!(usual.prefix.as_str(), "mysql/master/");
        assert!(
            usual.consul.is_none() && usual.etcd.is_none() && usual.zookeeper.is_none() && usual.proxysql.is_none()
        );
        let error = read(r#""FailRecoveryOnFailedPublication": true"#).unwrap_err();
        assert!(error.contains("ConsulAddress"), "{error}");
    }

    #[test]
    fn a_file_of_orchestrator_names_consul_and_zookeeper() {
        let both = read(
            r#""ConsulAddress": "consul:8500", "ConsulScheme": "https", "ConsulAclToken": "t", "ConsulMaxKVsPerTransaction": 1,
               "ConsulKVStoreProvider": "consul-txn", "ZkAddress": "zk1,zk2:2182/db/x/", "KVClusterMasterPrefix": "db//""#,
        )
        .unwrap();
        let consul = both.consul.unwrap();
        assert_eq!(consul.address, "https://consul:8500");
        assert_eq!(consul.operations, 5);
        assert!(consul.token.is_some());
        let zookeeper = both.zookeeper.unwrap();
        assert_eq!(zookeeper.servers, ["zk1:2181", "zk2:2182"]);
        assert_eq!(zookeeper.root, "/db/x");
        assert!(zookeeper.tls.is_none());
        assert_eq!(both.prefix.as_str(), "db/");
    }

    #[test]
    fn hostgroups_are_read_and_each_writer_hostgroup_belongs_to_one_cluster() {
        let given =
            r#""ProxySQLAdminAddress": "p1, p2:7000", "ProxySQLWriterHostgroup": 1, "ProxySQLReaderHostgroup": 2"#;
        let proxysql = read(&format!(
            r#"{given}, "ProxySQLClusterHostgroups": {{"shop": {{"Writer": 10, "Reader": 20}}, "bank": {{"Writer": 30}}}}"#
        ))
        .unwrap()
        .proxysql
        .unwrap();
        assert_eq!(
            proxysql.admins,
            [InstanceKey::new("p1", 6032), InstanceKey::new("p2", 7000)]
        );
        assert_eq!(proxysql.others, Some((1, Some(2))));
        assert_eq!(proxysql.clusters["shop"], (10, Some(20)));
        assert_eq!(proxysql.clusters["bank"], (30, None));
        let error = read(&format!(
            r#"{given}, "ProxySQLClusterHostgroups": {{"shop": {{"Writer": 1}}}}"#
        ))
        .unwrap_err();
        assert!(error.contains("the same writer hostgroup 1"), "{error}");
    }

    #[test]
    fn wrong_values_are_named_with_their_key() {
        for (keys, part) in [
            (r#""ConsulAddress": "consul:8500/x""#, "ConsulAddress: must be"),
            (r#""ConsulScheme": "ftp""#, "ConsulScheme: `ftp`"),
            (r#""ConsulKVStoreProvider": "zk""#, "ConsulKVStoreProvider"),
            (
                r#""ConsulAclToken": "${MISSING_TOKEN}""#,
                "ConsulAclToken: environment variable",
            ),
            (
                r#""ConsulSSLCAFile": "/nonexistent/ca.pem""#,
                "ConsulSSLCAFile: cannot read",
            ),
            (r#""EtcdEndpoints": ["etcd:2379"]"#, "EtcdEndpoints: must be"),
            (r#""EtcdPassword": "x""#, "EtcdUser: required"),
            (r#""ZkAddress": "zk1:99999""#, "ZkAddress"),
            (r#""ZkDigest": "secret""#, "ZkDigest: must be user:password"),
            (r#""ProxySQLAdminAddress": "p1""#, "needs hostgroups"),
            (
                r#""ProxySQLPreFailoverAction": "kill""#,
                "ProxySQLPreFailoverAction: `kill`",
            ),
            (
                r#""ProxySQLWriterHostgroup": 4, "ProxySQLReaderHostgroup": 4"#,
                "the same hostgroup 4",
            ),
            (
                r#""ProxySQLClusterHostgroups": {"shop": {"Reader": 4}}"#,
                "needs a Writer",
            ),
            (
                r#""ProxySQLAdminPasswordFile": "/nonexistent/password""#,
                "ProxySQLAdminPasswordFile: cannot read",
            ),
            (r#""KVClusterMasterPrefix": "a//b""#, "KVClusterMasterPrefix"),
        ] {
            let error = read(keys).unwrap_err();
            assert!(error.contains(part), "{keys}: {error}");
            assert!(!error.contains("`secret`"), "{error}");
        }
    }
}
