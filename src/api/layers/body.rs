//! A body that a layer watches.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Outcome of polling a body.
pub(super) type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

/// What a layer does around each poll of a body.
pub trait Watch<B: Body> {
    /// Polls the body and may change what comes out.
    fn poll(&mut self, body: Pin<&mut B>, context: &mut Context<'_>) -> Polled<B>;

    /// Whether nothing more comes out.
    fn is_end_stream(&self, body: &B) -> bool {
        body.is_end_stream()
    }
}

pin_project! {
    /// The body `B` under the eyes of `W`.
    #[derive(Debug)]
    pub struct Watched<B, W> {
        #[pin]
        body: B,
        watch: W,
    }
}

impl<B, W> Watched<B, W> {
    pub(super) const fn new(body: B, watch: W) -> Self {
        Self { body, watch }
    }
}

impl<B: Body, W: Watch<B>> Body for Watched<B, W> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled<Self> {
        let this = self.project();
        this.watch.poll(this.body, context)
    }

    fn is_end_stream(&self) -> bool {
        self.watch.is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
