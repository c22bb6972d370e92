//! Dependencies: what is called outside, so many calls at once, and not at all while it is down.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, TryAcquireError},
    time::Instant,
};

use crate::Failure;

/// A service that effects call: how many calls at once it takes, and a circuit breaker that leaves it alone while it is
/// down. A cheap handle; clones are one dependency.
///
/// Who is not let through gets [`Failure::NotNow`]: a step waits, and so does a reactor's event, without an attempt counted.
/// Something else may be done instead, if it is harmless beside an attempt before of which nobody knows what came of it:
///
/// ```
/// # use indelible_sagas::{Circuit, CircuitOptions, Dependency, Failure};
/// # async fn ask() -> Result<f64, Failure> { Ok(1.2) }
/// async fn rate(rates: &Dependency, yesterdays: f64) -> Result<f64, Failure> {
///     match rates.call(ask()).await {
///         Err(Failure::NotNow(_)) => Ok(yesterdays),
///         answered => answered,
///     }
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let rates = Dependency::new("rates", 20, CircuitOptions::default());
/// assert_eq!(rate(&rates, 1.1).await, Ok(1.2));
/// rates.force(Some(Circuit::Open));
/// assert_eq!(rate(&rates, 1.1).await, Ok(1.1));
/// # }
/// ```
///
/// # Metrics
///
/// With the label `dependency`: gauge `indelible_circuit_state` (0 closed, 1 half open, 2 open), counters
/// `indelible_circuit_transitions_total` (label `to`) and `indelible_circuit_blocked_total`.
///
/// ```
/// # use indelible_sagas::{Circuit, CircuitOptions, Dependency, Failure};
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let payments = Dependency::new("payments", 20, CircuitOptions::default().after_failures(2));
/// for _ in 0..2 {
///     let _ = payments.call(async { Err::<(), _>(Failure::unsure("no answer")) }).await;
/// }
/// assert_eq!(payments.circuit(), Circuit::Open);
/// let blocked = payments.call(async { Ok(()) }).await;
/// assert!(matches!(blocked, Err(Failure::NotNow(_))));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Dependency {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    calls: Semaphore,
    options: CircuitOptions,
    breaker: Mutex<Breaker>,
}

/// How a circuit is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Calls go through.
    Closed,
    /// A few go through, to see whether it is up again.
    HalfOpen,
    /// None does.
    Open,
}

/// When a circuit opens, and closes again.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CircuitOptions {
    /// It opens after so many failures on end: 5.
    pub failures_max: u32,
    /// Or when this share of the last calls failed: 0.5.
    pub failure_rate_max: f64,
    /// The last calls that the share is taken of: 50.
    pub window: usize,
    /// The fewest of them that say something: 20.
    pub calls_min: usize,
    /// A call that takes longer counts as failed, whatever it answers: 10 s.
    pub slow_after: Duration,
    /// How long it stays open: 1 s, and twice as long each time that it opens again from half open.
    pub open_first: Duration,
    /// At the most: 60 s.
    pub open_max: Duration,
    /// How many calls on end must go well, half open, for it to close: 2. As many go through at once.
    pub probes: u32,
    /// Which failures count: those that nobody knows the outcome of. A refusal is an answer.
    pub counts: fn(&Failure) -> bool,
}

impl Default for CircuitOptions {
    fn default() -> Self {
        Self {
            failures_max: 5,
            failure_rate_max: 0.5,
            window: 50,
            calls_min: 20,
            slow_after: Duration::from_secs(10),
            open_first: Duration::from_secs(1),
            open_max: Duration::from_secs(60),
            probes: 2,
            counts: |failure| matches!(failure, Failure::Unsure(_) | Failure::OutcomeUnknown(_)),
        }
    }
}

impl CircuitOptions {
    /// Opens after so many failures on end.
    #[must_use]
    pub const fn after_failures(mut self, failures: u32) -> Self {
        self.failures_max = failures;
        self
    }

    /// Stays open so long at first.
    #[must_use]
    pub const fn open_for(mut self, time: Duration) -> Self {
        self.open_first = time;
        self
    }
}

impl Dependency {
    /// A dependency that takes so many calls at once.
    pub fn new(name: impl Into<String>, calls_max: usize, options: CircuitOptions) -> Self {
        let (calls, breaker) = (Semaphore::new(calls_max), Mutex::default());
        let dependency = Self { shared: Arc::new(Shared { name: name.into(), calls, options, breaker }) };
        dependency.gauge(Circuit::Closed);
        dependency
    }

    /// Makes a call, if it is let through. One that is dropped before it answers has failed.
    ///
    /// # Errors
    /// [`Failure::NotNow`] where it isn't let through, and the call's own.
    pub async fn call<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let _permit = match self.shared.calls.try_acquire() {
            Ok(permit) => permit,
            // Not long: whoever waits for room is many, and comes again at another moment each.
            Err(TryAcquireError::NoPermits) => {
                return Err(self.blocked(Duration::from_millis(rand::random_range(20..100))));
            }
            Err(TryAcquireError::Closed) => return Err(self.blocked(self.shared.options.open_max)),
        };
        let admitted = self.step(|breaker, options, now| breaker.admit(options, now));
        let era = admitted.map_err(|time| self.blocked(time))?;
        let mut under_way = UnderWay { dependency: self, era, began: Instant::now(), failed: Some(true) };
        let answer = call.await;
        under_way.failed = match &answer {
            Err(failure) if (self.shared.options.counts)(failure) => Some(true),
            // Another dependency in between did not let it through.
            Err(Failure::NotNow(_)) => None,
            _ => Some(false),
        };
        answer
    }

    /// How its circuit is doing.
    pub fn circuit(&self) -> Circuit {
        self.breaker().circuit(Instant::now())
    }

    /// Holds the circuit open or closed, as an operator says, whatever comes of calls; `None` lets it go.
    pub fn force(&self, circuit: Option<Circuit>) {
        self.step(|breaker, _, _| breaker.forced = circuit);
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.shared.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the breaker, and tells where it goes.
    fn step<T>(&self, step: impl FnOnce(&mut Breaker, &CircuitOptions, Instant) -> T) -> T {
        let (mut breaker, now) = (self.breaker(), Instant::now());
        let answer = step(&mut breaker, &self.shared.options, now);
        let circuit = breaker.circuit(now);
        if std::mem::replace(&mut breaker.told, circuit) != circuit {
            tracing::warn!(dependency = self.shared.name, ?circuit, "the circuit has changed");
            let labels = [("dependency", self.shared.name.clone()), ("to", format!("{circuit:?}"))];
            metrics::counter!("indelible_circuit_transitions_total", &labels).increment(1);
            self.gauge(circuit);
        }
        answer
    }

    fn gauge(&self, circuit: Circuit) {
        metrics::gauge!("indelible_circuit_state", "dependency" => self.shared.name.clone()).set(circuit as u8);
    }

    fn blocked(&self, time: Duration) -> Failure {
        metrics::counter!("indelible_circuit_blocked_total", "dependency" => self.shared.name.clone()).increment(1);
        Failure::NotNow(time)
    }
}

/// A call that was let through.
struct UnderWay<'a> {
    dependency: &'a Dependency,
    /// The circuit's when it was.
    era: u64,
    began: Instant,
    /// Whether it failed; `None` where it was not tried.
    failed: Option<bool>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let slow = self.began.elapsed() > self.dependency.shared.options.slow_after;
        let (era, failed) = (self.era, if slow { Some(true) } else { self.failed });
        self.dependency.step(|breaker, options, now| breaker.answered(era, failed, options, now));
    }
}

/// The circuit itself: what has come of the calls, and when it was opened.
#[derive(Debug)]
struct Breaker {
    /// Another after each opening and closing: an answer to a call from before says nothing of how it is now.
    era: u64,
    /// The last calls, whether they failed.
    window: VecDeque<bool>,
    failures: u32,
    /// Until when it is open, and for how long that was.
    open: Option<(Instant, Duration)>,
    /// Calls under way, and those that went well, since it is half open.
    probing: u32,
    probed: u32,
    forced: Option<Circuit>,
    told: Circuit,
}

impl Default for Breaker {
    fn default() -> Self {
        let (window, open, forced, told) = (VecDeque::new(), None, None, Circuit::Closed);
        Self { era: 0, window, failures: 0, open, probing: 0, probed: 0, forced, told }
    }
}

impl Breaker {
    fn circuit(&self, now: Instant) -> Circuit {
        match (self.forced, self.open) {
            (Some(forced), _) => forced,
            (None, None) => Circuit::Closed,
            (None, Some((until, _))) if now < until => Circuit::Open,
            (None, Some(_)) => Circuit::HalfOpen,
        }
    }

    /// Lets a call through, in this era, or says how long to wait.
    fn admit(&mut self, options: &CircuitOptions, now: Instant) -> Result<u64, Duration> {
        match self.circuit(now) {
            Circuit::Closed => Ok(self.era),
            Circuit::Open => {
                Err(self.open.map_or(options.open_first, |(until, _)| until - now).max(options.open_first / 10))
            }
            Circuit::HalfOpen if self.probing < options.probes => {
                self.probing += 1;
                Ok(self.era)
            }
            Circuit::HalfOpen => Err(options.open_first / 10),
        }
    }

    fn answered(&mut self, era: u64, failed: Option<bool>, options: &CircuitOptions, now: Instant) {
        if era != self.era {
            return;
        }
        let circuit = self.circuit(now);
        if circuit == Circuit::HalfOpen {
            self.probing = self.probing.saturating_sub(1);
        }
        let Some(failed) = failed else { return };
        match circuit {
            Circuit::Closed if self.forced.is_none() => {
                self.window.push_back(failed);
                if self.window.len() > options.window {
                    self.window.pop_front();
                }
                self.failures = if failed { self.failures + 1 } else { 0 };
                let bad = self.window.iter().filter(|failed| **failed).count() as f64;
                let often = self.window.len() >= options.calls_min
                    && bad >= options.failure_rate_max * self.window.len() as f64;
                if self.failures >= options.failures_max || often {
                    self.open_for(options.open_first, now);
                }
            }
            Circuit::HalfOpen if failed => {
                let longer = self.open.map_or(options.open_first, |(_, time)| (time * 2).min(options.open_max));
                self.open_for(longer, now);
            }
            Circuit::HalfOpen => {
                self.probed += 1;
                if self.probed >= options.probes {
                    self.begin_anew(None);
                }
            }
            // It is held, by an operator.
            Circuit::Open | Circuit::Closed => {}
        }
    }

    fn open_for(&mut self, time: Duration, now: Instant) {
        self.begin_anew(Some((now + time, time)));
    }

    fn begin_anew(&mut self, open: Option<(Instant, Duration)>) {
        *self = Self { era: self.era + 1, open, told: self.told, forced: self.forced, ..Self::default() };
    }
}
