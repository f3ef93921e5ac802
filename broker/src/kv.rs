//! RocksDB as this crate uses it: one column family, no write-ahead log, values of a few dozen bytes.
//!
//! Without a write-ahead log a crash loses what was not flushed, but in order: the store reopens at a prefix of its
//! write batches. What is lost is written again by applying the log from the applied log id that stands in the same
//! batches. [`Kv::add_table`] is outside of this order.

use std::io;
use std::path::Path;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, ErrorKind, FlushOptions, IngestExternalFileOptions,
    LogLevel, Options, ReadOptions, Snapshot, SstFileWriter, WriteBatch, WriteOptions,
};

/// File in the store's folder in which a table is made before it becomes one of the store's.
const UNFINISHED_TABLE: &str = "unfinished-table.tmp";

/// Memory and file bounds of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSettings {
    /// Bytes written to memory before they go to a file.
    pub memtable_bytes: usize,
    /// Memtables in memory, the one being written included.
    pub memtables_max: i32,
    /// Blocks, index blocks and filters kept in memory.
    pub block_cache_bytes: usize,
    /// Files held open.
    pub open_files_max: i32,
}

impl Default for KvSettings {
    fn default() -> Self {
        Self {
            memtable_bytes: 16 << 20,
            memtables_max: 3,
            block_cache_bytes: 64 << 20,
            open_files_max: 400,
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files contradict each other or their checksums: another copy is needed.
    #[error("damaged: {0}")]
    Damaged(String),
    /// Something else is wrong, and the files may be whole.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An open store.
pub struct Kv {
    db: DB,
    options: Options,
    write_options: WriteOptions,
}

impl Kv {
    /// Opens the store in `folder`, or makes a new one if there is nothing.
    pub fn open(folder: &Path, settings: &KvSettings) -> Result<Self, OpenError> {
        refuse_headless_folder(folder)?;
        remove_if_there(&folder.join(UNFINISHED_TABLE))?;
        let options = options(settings);
        let db = DB::open(&options, folder).map_err(|error| match error.kind() {
            ErrorKind::Corruption => OpenError::Damaged(error.to_string()),
            _ => OpenError::Io(to_io(error)),
        })?;
        let mut write_options = WriteOptions::new();
        write_options.disable_wal(true);
        Ok(Self {
            db,
            options,
            write_options,
        })
    }

    /// Writes all of `batch` or nothing.
    pub fn write(&self, batch: WriteBatch) -> io::Result<()> {
        self.db.write_opt(batch, &self.write_options).map_err(to_io)
    }

    /// Writes `records`, in the order of their keys, as one table past the memory: on return it is on disk. Not one
    /// of the batches that are lost in order: a crash may keep it and lose batches written before it. One at a time.
    pub fn add_table(&self, records: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> io::Result<()> {
        let path = self.db.path().join(UNFINISHED_TABLE);
        // A crash may have left this name on a table that is in use by now: it must not be opened for writing.
        remove_if_there(&path)?;
        let mut table = SstFileWriter::create(&self.options);
        table.open(&path).map_err(to_io)?;
        for (key, value) in records {
            table.put(key, value).map_err(to_io)?;
        }
        table.finish().map_err(to_io)?;
        let mut ingest = IngestExternalFileOptions::default();
        ingest.set_move_files(true);
        self.db.ingest_external_file_opts(&ingest, vec![path]).map_err(to_io)
    }

    /// One value.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get(key).map_err(to_io)
    }

    /// Walks keys in `from..to` as they are now.
    pub fn cursor(&self, from: Vec<u8>, to: Vec<u8>) -> Cursor<'_> {
        Cursor {
            raw: self.db.raw_iterator_opt(bounded(from, to)),
        }
    }

    /// The store as it is now, for reading while it changes.
    pub fn snapshot(&self) -> KvSnapshot<'_> {
        KvSnapshot {
            snapshot: self.db.snapshot(),
        }
    }

    /// On return everything written is on disk.
    pub fn flush(&self) -> io::Result<()> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(to_io)
    }

    /// Makes a copy in the folder `into`, which must not exist, by hard links where possible.
    pub fn checkpoint(&self, into: &Path) -> io::Result<()> {
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(into))
            .map_err(to_io)
    }
}

/// A store as it was when the snapshot was taken.
pub struct KvSnapshot<'a> {
    snapshot: Snapshot<'a>,
}

impl KvSnapshot<'_> {
    /// Walks keys in `from..to`, once and without filling the cache.
    pub fn scan(&self, from: Vec<u8>, to: Vec<u8>) -> Cursor<'_> {
        let mut options = bounded(from, to);
        options.fill_cache(false);
        Cursor {
            raw: self.snapshot.raw_iterator_opt(options),
        }
    }
}

/// A place in a range of keys.
pub struct Cursor<'a> {
    raw: DBRawIterator<'a>,
}

impl Cursor<'_> {
    /// Goes to the first key.
    pub fn seek_to_first(&mut self) -> io::Result<bool> {
        self.raw.seek_to_first();
        self.arrived()
    }

    /// Goes to the last key.
    pub fn seek_to_last(&mut self) -> io::Result<bool> {
        self.raw.seek_to_last();
        self.arrived()
    }

    /// Goes to `key` or the first one after it.
    pub fn seek(&mut self, key: &[u8]) -> io::Result<bool> {
        self.raw.seek(key);
        self.arrived()
    }

    /// Goes to `key` or the last one before it.
    pub fn seek_back(&mut self, key: &[u8]) -> io::Result<bool> {
        self.raw.seek_for_prev(key);
        self.arrived()
    }

    /// One key on.
    pub fn step(&mut self) -> io::Result<bool> {
        self.raw.next();
        self.arrived()
    }

    /// One key back.
    pub fn step_back(&mut self) -> io::Result<bool> {
        self.raw.prev();
        self.arrived()
    }

    /// Key and value here; `None` outside of the range.
    pub fn item(&self) -> Option<(&[u8], &[u8])> {
        self.raw.item()
    }

    fn arrived(&self) -> io::Result<bool> {
        if self.raw.valid() {
            return Ok(true);
        }
        self.raw.status().map_err(to_io)?;
        Ok(false)
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// RocksDB takes a folder without its `CURRENT` file for a new store and removes the tables it finds there.
fn refuse_headless_folder(folder: &Path) -> Result<(), OpenError> {
    if folder.join("CURRENT").exists() || !folder.exists() {
        return Ok(());
    }
    for file in std::fs::read_dir(folder)? {
        if file?.path().extension().is_some_and(|extension| extension == "sst") {
            return Err(OpenError::Damaged("tables without a CURRENT file".to_owned()));
        }
    }
    Ok(())
}

fn options(settings: &KvSettings) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(settings.block_cache_bytes));
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(settings.memtable_bytes);
    options.set_max_write_buffer_number(settings.memtables_max);
    options.set_max_open_files(settings.open_files_max);
    options.set_max_background_jobs(2);
    // Writers take turns and nearly all of them are apply: the cheaper, unsynchronised memtable insert is enough.
    options.set_allow_concurrent_memtable_write(false);
    options.set_bytes_per_sync(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn bounded(from: Vec<u8>, to: Vec<u8>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    options
}

fn to_io(error: rocksdb::Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::Corruption => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_its_head_is_damaged_not_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kv");
        let kv = Kv::open(&path, &KvSettings::default()).unwrap();
        let mut batch = WriteBatch::default();
        batch.put(b"key", b"value");
        kv.write(batch).unwrap();
        kv.flush().unwrap();
        drop(kv);

        std::fs::remove_file(path.join("CURRENT")).unwrap();
        assert!(matches!(
            Kv::open(&path, &KvSettings::default()),
            Err(OpenError::Damaged(_))
        ));
        assert!(
            std::fs::read_dir(&path)
                .unwrap()
                .any(|f| f.unwrap().path().extension().is_some_and(|e| e == "sst"))
        );
    }

    #[test]
    fn a_cursor_stays_in_its_range() {
        let folder = tempfile::tempdir().unwrap();
        let kv = Kv::open(folder.path(), &KvSettings::default()).unwrap();
        let mut batch = WriteBatch::default();
        for key in [b"a", b"b", b"c", b"d"] {
            batch.put(key, b"");
        }
        kv.write(batch).unwrap();
        let mut cursor = kv.cursor(b"b".to_vec(), b"d".to_vec());
        assert!(cursor.seek_to_last().unwrap());
        assert_eq!(cursor.item().unwrap().0, b"c");
        assert!(cursor.step_back().unwrap());
        assert_eq!(cursor.item().unwrap().0, b"b");
        assert!(!cursor.step_back().unwrap());
        assert!(!cursor.seek_back(b"a").unwrap());
    }
}
