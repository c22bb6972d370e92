//! The ways to decide: what [`Repository::execute`](crate::Repository::execute), `and`,
//! [`Executor::transact`](crate::Executor::transact) and [`Executor::decide`](crate::Executor::decide) do in a unit.

use crate::{CommandError, Decide, Handle, InvalidInput, SnapshotPolicy, StreamId, unit::Unit};

/// How a command is decided. Sealed: the four implementations here are all there are.
pub trait Plan: Send + Sync + 'static + sealed::Sealed {
    /// The domain's error.
    type Error: Send + 'static;

    /// The stream that an idempotency key belongs to.
    #[doc(hidden)]
    fn stream(&self) -> Result<Option<StreamId>, InvalidInput>;

    /// Decides, in a fresh unit.
    #[doc(hidden)]
    fn decide(&self, unit: &Unit) -> impl Future<Output = Result<(), CommandError<Self::Error>>> + Send;
}

mod sealed {
    pub trait Sealed {}
}

/// A command to one aggregate.
pub struct One<A: crate::Aggregate, C> {
    id: A::Id,
    command: C,
    snapshots: SnapshotPolicy,
}

impl<A: Handle<C>, C> One<A, C> {
    pub(crate) fn new(id: A::Id, command: C, snapshots: SnapshotPolicy) -> Self {
        Self { id, command, snapshots }
    }
}

impl<A: crate::Aggregate, C> sealed::Sealed for One<A, C> {}
impl<A: Handle<C>, C: Send + Sync + 'static> Plan for One<A, C> {
    type Error = A::Error;

    fn stream(&self) -> Result<Option<StreamId>, InvalidInput> {
        A::stream(&self.id).map(Some)
    }

    async fn decide(&self, unit: &Unit) -> Result<(), CommandError<A::Error>> {
        unit.execute_ref::<A, C>(&self.id, &self.command, self.snapshots).await
    }
}

/// Two commands, one after the other.
pub struct Both<P, Q> {
    first: P,
    second: Q,
}

impl<P, Q> Both<P, Q> {
    pub(crate) fn new(first: P, second: Q) -> Self {
        Self { first, second }
    }
}

impl<P, Q> sealed::Sealed for Both<P, Q> {}
impl<P: Plan, Q: Plan<Error: Into<P::Error>>> Plan for Both<P, Q> {
    type Error = P::Error;

    fn stream(&self) -> Result<Option<StreamId>, InvalidInput> {
        self.first.stream()
    }

    async fn decide(&self, unit: &Unit) -> Result<(), CommandError<P::Error>> {
        self.first.decide(unit).await?;
        self.second.decide(unit).await.map_err(|error| error.map_rejected(Into::into))
    }
}

/// A command to a decision model.
pub struct Decision<M, C> {
    model: M,
    command: C,
}

impl<M, C> Decision<M, C> {
    pub(crate) fn new(model: M, command: C) -> Self {
        Self { model, command }
    }
}

impl<M, C> sealed::Sealed for Decision<M, C> {}
impl<M: Decide<C>, C: Send + Sync + 'static> Plan for Decision<M, C> {
    type Error = M::Error;

    fn stream(&self) -> Result<Option<StreamId>, InvalidInput> {
        Ok(None)
    }

    async fn decide(&self, unit: &Unit) -> Result<(), CommandError<M::Error>> {
        unit.decide_ref(self.model.clone(), &self.command).await
    }
}

/// Whatever a closure does in its unit.
pub struct Transaction<F> {
    work: F,
}

impl<F> Transaction<F> {
    pub(crate) fn new(work: F) -> Self {
        Self { work }
    }
}

impl<F> sealed::Sealed for Transaction<F> {}
impl<F, Fut, E> Plan for Transaction<F>
where
    F: Fn(Unit) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), CommandError<E>>> + Send,
    E: Send + 'static,
{
    type Error = E;

    fn stream(&self) -> Result<Option<StreamId>, InvalidInput> {
        Ok(None)
    }

    async fn decide(&self, unit: &Unit) -> Result<(), CommandError<E>> {
        (self.work)(unit.clone()).await
    }
}
