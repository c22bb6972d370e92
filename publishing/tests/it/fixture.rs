//! What tests have in common.

use std::time::Duration;

use indelible_core::{CommandContext, store::memory::MemoryStore};
use indelible_publishing::{Message, Receive, testing::killed::Mirrors};
use indelible_sagas::Failure;

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// As [`Mirrors`] do, and in newer code: the second version of a measurement is understood.
pub(crate) struct Newer(pub Mirrors);

impl Receive for Newer {
    const NAME: &'static str = Mirrors::NAME;
    const KNOWS: &'static [(&'static str, u32)] = &[("test.measured", 2)];
    async fn receive(&self, message: &Message, context: CommandContext) -> Result<(), Failure> {
        self.0.receive(message, context).await
    }
}

/// A message of a gauge, as somebody else would send it.
pub(crate) fn measured(gauge: &str, version: u32, number: u64) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{gauge}/{number}","source":"/test","type":"test.measured","subject":"gauge-{gauge}",
        "schemaversion":{version},"novelty":[1],"data":{{"number":{number},"value":0,"unit":"m"}}}}"#
    )
}

/// What the mirrors of these gauges were told: the numbers, in order.
pub(crate) async fn told(store: &MemoryStore, gauge: &str) -> Vec<u64> {
    use futures::TryStreamExt;
    use indelible_core::{EventStoreExt, ReadStream};
    use indelible_publishing::testing::killed::MirrorEvent;
    let stream = format!("mirror-{gauge}").parse().unwrap();
    let events: Vec<_> = store.stream(ReadStream::new(stream)).try_collect().await.unwrap();
    let number = |event: &indelible_core::RecordedEvent| {
        let MirrorEvent::Told { number, .. } = event.decode().unwrap();
        number
    };
    events.iter().map(number).collect()
}
