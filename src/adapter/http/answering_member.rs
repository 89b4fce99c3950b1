//! Names the member that gave an answer, for clients behind a proxy or behind a member that forwards.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::ports::Consensus;

/// Header with the name of the member that gave the answer.
const MEMBER_HEADER: HeaderName = HeaderName::from_static("x-ham4db-member");

/// Adds the name of this member to an answer that has none: in an answer that was forwarded, it is the leader's.
pub(super) async fn name(State(consensus): State<Arc<dyn Consensus>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if !response.headers().contains_key(MEMBER_HEADER)
        && let Ok(name) = HeaderValue::from_str(&consensus.me().name)
    {
        response.headers_mut().insert(MEMBER_HEADER, name);
    }
    response
}
