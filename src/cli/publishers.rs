//! The publishers of primaries that the configuration asks for. A new one is a line in [`open_publishers`].

use std::sync::Arc;

use anyhow::Context as _;
use tracing::info;

use crate::adapter::publishers::{
    ConsulOptions, ConsulPublisher, EtcdOptions, EtcdPublisher, Hostgroups, PairOptions, PreFailoverAction,
    ProxySqlOptions, ProxySqlPublisher, TlsFiles, ZooKeeperOptions, ZooKeeperPublisher,
};
use crate::app::ports::publisher::PrimaryPublisher;
use crate::config::settings::{
    ConsulSettings, EtcdSettings, ProxySqlAction, ProxySqlSettings, PublisherSettings, TlsFileSettings,
    ZooKeeperSettings,
};
use crate::domain::key::InstanceKey;

type Publishers = Vec<Arc<dyn PrimaryPublisher>>;

/// Prepares the publishers; none connects before this member leads.
pub(super) fn open_publishers(settings: &PublisherSettings) -> anyhow::Result<Publishers> {
    let pairs = PairOptions {
        prefix: settings.prefix.clone(),
        removes_before_failover: settings.removes_before_failover,
    };
    let mut publishers: Publishers = Vec::new();
    publishers.extend(
        settings
            .consul
            .as_ref()
            .map(|consul| open_consul(consul, &pairs))
            .transpose()?,
    );
    publishers.extend(settings.etcd.as_ref().map(|etcd| open_etcd(etcd, &pairs)).transpose()?);
    publishers.extend(
        settings
            .zookeeper
            .as_ref()
            .map(|zookeeper| open_zookeeper(zookeeper, &pairs))
            .transpose()?,
    );
    publishers.extend(settings.proxysql.iter().flat_map(open_proxysqls));
    for publisher in &publishers {
        info!("primaries are published at {}", publisher.name());
    }
    Ok(publishers)
}

fn tls(files: &TlsFileSettings) -> TlsFiles {
    TlsFiles {
        ca: files.ca.clone(),
        client: files.client.clone(),
    }
}

fn open_consul(settings: &ConsulSettings, pairs: &PairOptions) -> anyhow::Result<Arc<dyn PrimaryPublisher>> {
    let options = ConsulOptions {
        address: settings.address.parse().context("ConsulAddress")?,
        token: settings.token.clone(),
        all_data_centers: settings.all_data_centers,
        operations: settings.operations,
        tls: tls(&settings.tls),
        pairs: pairs.clone(),
    };
    Ok(Arc::new(ConsulPublisher::new(options).context("TLS to Consul")?))
}

fn open_etcd(settings: &EtcdSettings, pairs: &PairOptions) -> anyhow::Result<Arc<dyn PrimaryPublisher>> {
    let endpoints: Result<Vec<_>, _> = settings.endpoints.iter().map(|endpoint| endpoint.parse()).collect();
    let options = EtcdOptions {
        endpoints: endpoints.context("EtcdEndpoints")?,
        account: settings.account.clone(),
        tls: tls(&settings.tls),
        pairs: pairs.clone(),
    };
    Ok(Arc::new(EtcdPublisher::new(options).context("TLS to etcd")?))
}

fn open_zookeeper(settings: &ZooKeeperSettings, pairs: &PairOptions) -> anyhow::Result<Arc<dyn PrimaryPublisher>> {
    let options = ZooKeeperOptions {
        servers: settings.servers.clone(),
        root: settings.root.clone(),
        digest: settings.digest.clone(),
        tls: settings.tls.as_ref().map(tls),
        pairs: pairs.clone(),
    };
    Ok(Arc::new(ZooKeeperPublisher::new(options).context("TLS to ZooKeeper")?))
}

/// One publisher for each admin interface: one that does not answer delays no other one.
fn open_proxysqls(settings: &ProxySqlSettings) -> Publishers {
    let hostgroups = |(writer, reader): (u32, Option<u32>)| Hostgroups { writer, reader };
    let open = |admin: &InstanceKey| -> Arc<dyn PrimaryPublisher> {
        let clusters = settings.clusters.iter();
        Arc::new(ProxySqlPublisher::new(ProxySqlOptions {
            admin: admin.clone(),
            user: settings.user.clone(),
            password: settings.password.clone(),
            tls: settings.tls.clone(),
            clusters: clusters
                .map(|(alias, groups)| (alias.clone(), hostgroups(*groups)))
                .collect(),
            others: settings.others.map(hostgroups),
            action: match settings.action {
                ProxySqlAction::OfflineSoft => PreFailoverAction::OfflineSoft,
                ProxySqlAction::WeightZero => PreFailoverAction::WeightZero,
                ProxySqlAction::Nothing => PreFailoverAction::None,
            },
        }))
    };
    settings.admins.iter().map(open).collect()
}
