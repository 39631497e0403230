//! Bodies that are read before their request goes on, because its signature is over them.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::Body;
use super::sigv4::{self, BodyHash};
use crate::denials::Why;

const MOST: usize = 8 << 20;
const READING: Duration = Duration::from_secs(60);
/// Bodies of one broker that are being read or on their way.
static PLACES: Semaphore = Semaphore::const_new(8);

/// What goes on to the server, with the hash of it in `parts` if it had to be read.
pub(super) async fn body(parts: &mut Parts, body: Incoming, signs: bool) -> Result<Body, Why> {
    if !signs || !sigv4::needs_body(parts) {
        return Ok(Either::Left(body));
    }
    if body.is_end_stream() {
        parts.extensions.insert(BodyHash::of(b""));
        return Ok(Either::Left(body));
    }
    let refused = |reason| Why {
        rule: "request".into(),
        reason,
        next: "send less than 8 MiB, or say the body's hash in X-Amz-Content-Sha256",
    };
    let read = async {
        let _place = PLACES.acquire().await.ok()?;
        Some(Limited::new(body, MOST).collect().await.map(http_body_util::Collected::to_bytes))
    };
    let bytes: Bytes = match timeout(READING, read).await {
        Ok(Some(Ok(bytes))) => bytes,
        Ok(Some(Err(error))) if error.is::<LengthLimitError>() => {
            return Err(refused("the body that is to be signed is longer than 8 MiB"));
        }
        Ok(_) => return Err(refused("the body that is to be signed broke off")),
        Err(_) => return Err(refused("the body that is to be signed did not come within a minute")),
    };
    parts.extensions.insert(BodyHash::of(&bytes));
    Ok(Either::Right(Full::new(bytes)))
}
