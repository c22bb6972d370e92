//! Reading ahead: whoever takes the whole log, page after page, finds the next pages being read. Called by `store`.
//!
//! Each position has its event, so that it is known where the pages behind the next one begin, and several threads read
//! side by side while the events are taken.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use indelible_core::{Direction, PAGE_EVENTS_MAX, Page, Position, ReadLog, StoreError};
use tokio::task::JoinHandle;

/// How many readers are followed; of more, the latest. One that does not come back leaves its pages in memory, of a MiB of
/// data each at most, until others take its place.
const READERS_MAX: usize = 4;
/// How many pages are read ahead of each. With two, threads wait for whoever takes the first.
const PAGES_MAX: usize = 3;

/// A page that is being read, or has been.
pub(crate) type Reading = JoinHandle<Result<Page<Position>, StoreError>>;

/// Readers of the whole log, the latest last.
#[derive(Default)]
pub(crate) struct Ahead(Mutex<VecDeque<Reader>>);

/// One that has had a page.
pub(crate) struct Reader {
    /// Where it goes on.
    next: Position,
    to: Position,
    direction: Direction,
    /// Pages that are read for it, and where they begin.
    pages: VecDeque<(Position, Reading)>,
}

/// Whether a read wants all events of a log that ends here, and there is more of them than a page: what is read ahead has a
/// next page then, also where the log goes on meanwhile.
pub(crate) fn is_whole(read: &ReadLog, head: Position) -> bool {
    let (low, high) = match read.direction {
        Direction::Forwards => (read.from.max(Position::FIRST), read.to.min(head)),
        Direction::Backwards => (read.to.max(Position::FIRST), read.from.min(head)),
    };
    read.filter.is_all() && read.limit >= PAGE_EVENTS_MAX && low.plus(PAGE_EVENTS_MAX as u64) <= high
}

impl Ahead {
    /// The reader that goes on here, where one does.
    pub(crate) fn take(&self, read: &ReadLog) -> Option<Reader> {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on =
            |reader: &Reader| (reader.next, reader.to, reader.direction) == (read.from, read.to, read.direction);
        let index = readers.iter().rposition(goes_on)?;
        readers.remove(index)
    }

    pub(crate) fn put(&self, reader: Reader) {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        readers.push_back(reader);
        if readers.len() > READERS_MAX {
            readers.pop_front();
        }
    }
}

impl Reader {
    /// One that has had its first page and asks for this next.
    pub(crate) fn new(next: &ReadLog) -> Self {
        Self { next: next.from, to: next.to, direction: next.direction, pages: VecDeque::new() }
    }

    /// The page that was read for it. `None` where none was, or where that failed: what is wrong now is found by reading again.
    pub(crate) async fn page(&mut self) -> Option<Page<Position>> {
        // Two that want different amounts, and were taken for one, have left pages behind a gap.
        let (_, page) = self.pages.pop_front().filter(|(from, _)| *from == self.next)?;
        page.await.ok()?.ok()
    }

    /// Has the next pages read. Where a page was full of events, and not of their bytes, those behind the next one are likely
    /// to be so.
    pub(crate) fn read_ahead(
        &mut self,
        next: &ReadLog,
        was_full: bool,
        head: Position,
        start: impl Fn(ReadLog) -> Option<Reading>,
    ) {
        const PAGE: u64 = PAGE_EVENTS_MAX as u64;
        self.next = next.from;
        let mut read = next.clone();
        for n in 0..if was_full { PAGES_MAX } else { 1 } {
            if !is_whole(&read, head) {
                break;
            }
            if self.pages.get(n).is_none_or(|(from, _)| *from != read.from) {
                self.pages.truncate(n);
                let Some(page) = start(read.clone()) else { break };
                self.pages.push_back((read.from, page));
            }
            read.limit -= PAGE_EVENTS_MAX;
            read.from = match read.direction {
                Direction::Forwards => read.from.plus(PAGE),
                Direction::Backwards => Position::new(read.from.min(head).get().saturating_sub(PAGE)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, sync::Arc};

    use futures::TryStreamExt;
    use indelible_core::{
        Append, ContentType, EventStore, EventStoreExt, EventType, ExpectedVersion, NewEvent, RecordedEvent,
    };
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
    use tempfile::TempDir;

    use super::*;
    use crate::{Durability, RocksStore};

    const HEAD: Position = Position::new(5_500);

    /// Has the next pages read, and says where those begin that were not read already.
    fn begun(reader: &mut Reader, next: &ReadLog, was_full: bool) -> Vec<u64> {
        let begun = RefCell::new(Vec::new());
        reader.read_ahead(next, was_full, HEAD, |read| {
            begun.borrow_mut().push(read.from.get());
            Some(tokio::spawn(async { Ok(Page { events: Vec::new(), next: None }) }))
        });
        begun.into_inner()
    }

    /// A store of so many appends of so many events each. Those of every fourth have so many bytes, the others few: pages are full of
    /// events here, and of bytes there.
    async fn filled(appends: usize, events: usize, large: usize) -> (TempDir, RocksStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
        for n in 0..appends {
            let data = vec![b'0'; if n % 4 == 3 { large } else { 20 }];
            let event = || NewEvent::new(EventType::from_static("Written"), ContentType::BINCODE, data.clone());
            let events = (0..events).map(|_| event());
            store.append(Append::to("s-1".parse().unwrap(), ExpectedVersion::Any, events)).await.unwrap();
        }
        (dir, store)
    }

    /// How many pages are read ahead for each reader.
    fn followed(store: &RocksStore) -> Vec<usize> {
        let ahead = store.shared().with_run(|run| Arc::clone(&run.ahead)).unwrap();
        ahead.0.lock().unwrap().iter().map(|reader| reader.pages.len()).collect()
    }

    fn from(position: u64) -> ReadLog {
        ReadLog::all().from(Position::new(position))
    }

    #[tokio::test]
    async fn each_page_is_read_once_and_those_at_the_end_not_ahead() {
        let reader = &mut Reader::new(&from(1_001));
        assert_eq!(begun(reader, &from(1_001), true), [1_001, 2_001, 3_001]);
        assert!(reader.page().await.is_some());
        assert_eq!(begun(reader, &from(2_001), true), [4_001]);
        for next in [3_001, 4_001, 5_001] {
            assert!(reader.page().await.is_some());
            assert_eq!(begun(reader, &from(next), true), [0; 0]);
        }
        assert!(reader.page().await.is_none());

        let backwards = |position| ReadLog::all().backwards().from(position);
        let reader = &mut Reader::new(&backwards(Position::new(3_500)));
        assert_eq!(begun(reader, &backwards(Position::new(3_500)), true), [3_500, 2_500, 1_500]);
        assert_eq!(begun(&mut Reader::new(&from(1)), &from(1).limit(1_999), true), [1]);
        assert_eq!(begun(&mut Reader::new(&from(1)), &from(1).to(Position::new(1_000)), true), [0; 0]);
        // One that ends where the log does has no next now, and would have none when the log has gone on.
        assert_eq!(begun(&mut Reader::new(&from(3_501)), &from(3_501), true), [3_501]);
        assert_eq!(begun(&mut Reader::new(&from(3_500)), &from(3_500), true), [3_500, 4_500]);
    }

    #[tokio::test]
    async fn an_error_of_before_is_no_answer() {
        let reader = &mut Reader::new(&from(1_001));
        let failing = |_| Some(tokio::spawn(async { Err(StoreError::stopped("it is opened again")) }));
        reader.read_ahead(&from(1_001), true, HEAD, failing);
        assert_eq!(reader.pages.len(), PAGES_MAX);
        assert!(reader.page().await.is_none());
    }

    #[tokio::test]
    async fn pages_that_are_full_of_bytes_are_read_one_ahead() {
        let reader = &mut Reader::new(&from(1_001));
        assert_eq!(begun(reader, &from(1_001), true), [1_001, 2_001, 3_001]);
        assert!(reader.page().await.is_some());
        // It had room for 300 events.
        assert_eq!(begun(reader, &from(1_301), false), [1_301]);
    }

    /// Readers of all kinds beside one another.
    #[tokio::test]
    async fn all_is_read_once_and_in_order() {
        let (_dir, store) = filled(10, 1_100, 2_000).await;
        let all = |read: ReadLog| store.log(read).try_collect::<Vec<RecordedEvent>>();
        let read = ReadLog::all();
        let (whole, again, backwards, part, few, more) = futures::try_join!(
            all(read.clone()),
            all(read.clone()),
            all(read.clone().backwards()),
            all(read.clone().from(Position::new(501)).to(Position::new(9_999))),
            all(read.clone().limit(3_333)),
            all(read.clone().from(Position::new(2))),
        )
        .unwrap();
        let positions = |events: &[RecordedEvent]| events.iter().map(|e| e.position.get()).collect::<Vec<_>>();
        assert_eq!(positions(&whole), (1..=11_000).collect::<Vec<_>>());
        assert!(again == whole && more == whole[1..] && few == whole[..3_333] && part == whole[500..9_999]);
        assert!(backwards.iter().rev().eq(&whole));
        assert!(followed(&store).len() <= READERS_MAX);
    }

    /// Who goes on where another has been may want less, or more.
    #[tokio::test]
    async fn readers_of_different_amounts_miss_nothing() {
        let (_dir, store) = filled(14, 1_000, 3_000).await;
        let mut random = StdRng::seed_from_u64(1);
        let mut next = Position::FIRST;
        for _ in 0..400 {
            // Some read on from here for a while, of whom the last is followed.
            for _ in 0..2 {
                let limit = [1_000, 1_000, 1_300, 2_000, 4_100, usize::MAX].choose(&mut random).copied().unwrap();
                let mut read = ReadLog::all().from(next).limit(limit);
                for _ in 0..random.random_range(1..4) {
                    let page = store.read_log(&read).await.unwrap();
                    let positions: Vec<_> = page.events.iter().map(|event| event.position.get()).collect();
                    let wanted: Vec<_> = (read.from.get()..).take(positions.len()).collect();
                    assert_eq!(positions, wanted, "{read:?}");
                    assert!(positions.len() <= read.limit);
                    read.limit -= positions.len();
                    match page.next {
                        Some(from) => assert_eq!(from, read.from.plus(positions.len() as u64), "{read:?}"),
                        None => assert_eq!(positions.last(), Some(&14_000), "{read:?}"),
                    }
                    next = page.next.unwrap_or(Position::FIRST);
                    read.from = next;
                    if read.limit == 0 || page.next.is_none() {
                        break;
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_no_answer_of_a_closed_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
        let event = || NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
        let append = Append::to("s-1".parse().unwrap(), ExpectedVersion::Any, (0..6_000).map(|_| event()));
        store.append(append).await.unwrap();
        let mut read = ReadLog::all();
        let mut ahead = Vec::new();
        for _ in 0..5 {
            read.from = store.read_log(&read).await.unwrap().next.unwrap();
            ahead.extend(followed(&store));
        }
        // The first two are found in memory, and are shorter.
        assert_eq!(ahead, [0, 1, 3, 3, 2]);
        store.close().await.unwrap();
        assert!(matches!(store.read_log(&read).await, Err(StoreError::Stopped { .. })));
    }
}
