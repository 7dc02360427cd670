//! A future that does something with the answer when it comes.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;

/// What a layer does with the output of the future inside.
pub trait OnAnswer<T> {
    /// The answer of the layer.
    type Response;

    /// Makes the layer's answer.
    fn answer(self, output: T) -> Self::Response;
}

pin_project! {
    /// The future `F`, then `O` on its output.
    #[derive(Debug)]
    pub struct Answered<F, O> {
        #[pin]
        future: F,
        on: Option<O>,
    }
}

impl<F, O> Answered<F, O> {
    pub(super) const fn new(future: F, on: O) -> Self {
        Self {
            future,
            on: Some(on),
        }
    }
}

impl<F, O> Future for Answered<F, O>
where
    F: Future,
    O: OnAnswer<F::Output>,
{
    type Output = Result<O::Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let output = ready!(this.future.poll(context));
        match this.on.take() {
            Some(on) => Poll::Ready(Ok(on.answer(output))),
            // Polled after it was done, which the contract of futures rules out.
            None => Poll::Pending,
        }
    }
}
