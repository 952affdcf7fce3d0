//! What a handler left of a body is read after it, so that the answer arrives and the connection is good for the next request.

use axum::{
    body::{Body, BodyDataStream, Bytes, HttpBody as _},
    extract::Request,
    http::{HeaderValue, header},
    middleware::Next,
    response::Response,
};
use futures_util::{Stream, StreamExt as _};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::oneshot;

/// How much is read for nothing, in bytes, and for how long: the largest file, and a little.
const MAX_BYTES: usize = 128 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn around(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Whoever waits for a word before it sends, need not send.
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (back, mut left) = oneshot::channel();
    let lend = |body: Body| Body::from_stream(Lent { body: Some(body.into_data_stream()), back: Some(back) });
    let mut response = next.run(request.map(lend)).await;
    if let Ok(body) = left.try_recv()
        && (asks_first || !matches!(tokio::time::timeout(PATIENCE, skip(body)).await, Ok(true)))
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads to the end; `false`: it is too far, or there is none.
async fn skip(mut body: BodyDataStream) -> bool {
    let mut read = 0;
    while let Some(chunk) = body.next().await {
        read += chunk.map_or(MAX_BYTES + 1, |chunk| chunk.len());
        if read > MAX_BYTES {
            return false;
        }
    }
    true
}

/// A body that comes back if it is dropped before its end.
struct Lent {
    body: Option<BodyDataStream>,
    back: Option<oneshot::Sender<BodyDataStream>>,
}

impl Stream for Lent {
    type Item = Result<Bytes, axum::Error>;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let chunk = body.poll_next_unpin(context);
        if matches!(chunk, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        chunk
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            // Nobody waits for it if the request was given up.
            let _ = back.send(body);
        }
    }
}
