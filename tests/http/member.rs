//! A member of the tests: the router over fakes.

use ham4db::domain::cluster_view::ClusterView;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use ham4db::adapter::http::{AppContext, Options, router};
use ham4db::app::ports::{Clock, Peer};
use serde_json::Value;
use tower::ServiceExt;

use crate::fixture::{FakeApi, StoppedClock};
use crate::group::{FakeGroup, peer};

/// A member with its fakes.
pub(crate) struct Member {
    pub(crate) api: Arc<FakeApi>,
    pub(crate) group: Arc<FakeGroup>,
    pub(crate) context: AppContext,
    router: Router,
}

impl Member {
    /// A single member, without raft.
    pub(crate) fn alone() -> Self {
        Self::new(FakeGroup::new(1, false, Some(peer(1))), Options::default())
    }

    pub(crate) fn with_options(options: Options) -> Self {
        Self::new(FakeGroup::new(1, false, Some(peer(1))), options)
    }

    pub(crate) fn in_group(me: u64, leader: Option<Peer>) -> Self {
        Self::new(FakeGroup::new(me, true, leader), Options::default())
    }

    pub(crate) fn new(group: FakeGroup, options: Options) -> Self {
        Self::with_clock(group, options, Arc::new(StoppedClock))
    }

    pub(crate) fn with_clock(group: FakeGroup, options: Options, clock: Arc<dyn Clock>) -> Self {
        let api = Arc::new(FakeApi::default());
        let group = Arc::new(group);
        let context = AppContext {
            api: api.clone(),
            consensus: group.clone(),
            clock,
            options: Arc::new(options),
            remembered: Arc::default(),
        };
        Self {
            router: router(context.clone()),
            api,
            group,
            context,
        }
    }

    /// Replaces the view of the cluster.
    pub(crate) fn show(&self, view: ClusterView) {
        *self.api.views.lock().unwrap() = vec![view];
    }

    pub(crate) async fn ask(&self, method: Method, path: &str) -> Answer {
        self.send(method, path, None, &[]).await
    }

    /// Sends a request with `Authorization` and other headers.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        authorization: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer {
            status: head.status,
            headers: head.headers,
            json: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path).await
    }

    /// The JSON of an answer that must be 200.
    pub(crate) async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        answer.json
    }

    /// Serves on a port of its own until the test ends.
    pub(crate) async fn serve(&self) -> Served {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        let task = tokio::spawn(ham4db::adapter::http::serve(
            listener,
            None,
            self.context.clone(),
            ham4db::adapter::connections::ListenerLimits::default(),
            stop.clone(),
        ));
        Served {
            uri: format!("http://{address}"),
            stop,
            task,
        }
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
    pub(crate) text: String,
}

pub(crate) struct Served {
    pub(crate) uri: String,
    stop: tokio_util::sync::CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    /// Stops and waits for the end.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}
