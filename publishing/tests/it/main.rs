//! Publishers and inboxes: what they keep while brokers lose and repeat messages, and on a NATS server.

mod faulty;
mod fixture;

mod failures;
mod feeds;
mod jetstream;
mod order;
mod outages;
mod rate;
