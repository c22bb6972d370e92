//! Sagas that run, on stores and read models in memory.

use std::time::Duration;

use indelible_core::store::memory::MemoryStore;
use indelible_projections::memory::MemoryModel;
use indelible_sagas::{Outcome, SagaWorker, Sagas};

use crate::trip::{Agency, Trip};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn trips_are_booked() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let running = SagaWorker::new(&store).add(&model, Agency).start().await.unwrap();
    let trips = Sagas::<Trip>::new(&store);
    for n in 0..100 {
        trips.start(&n.to_string(), Trip { traveller: "ada".into() }).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(trips.ended(&n.to_string(), SOON).await.unwrap(), Some(Outcome::Completed));
    }
    println!("{}", trips.history("7").await.unwrap());
    assert!(running.drain(SOON).await);
}
