//! Answers that the broker gives in the server's place.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::denials::{self, Denial};

/// A body that passes through, or one that is held.
pub(super) type Body = Either<Incoming, Full<Bytes>>;

/// For the rest of a request that is refused.
const DRAINING: Duration = Duration::from_secs(1);
const MOST_REST: usize = 256 * 1024;

/// The same text as for flows that are refused.
pub(super) fn denied(denial: &Denial, status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(denials::body(denial).into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Reads a little of what is refused: a connection that ends with bytes unread takes the answer with it.
pub(super) async fn drain(mut body: Body) {
    let all = async {
        let mut rest = MOST_REST;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            if length > rest {
                return;
            }
            rest -= length;
        }
    };
    // What comes later is not waited for.
    let _ = timeout(DRAINING, all).await;
}
