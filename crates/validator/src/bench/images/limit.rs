//! The limit: what this machine takes for the parts of a pull that no runtime can leave out, each by itself and with nothing else to do.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use flate2::bufread::GzDecoder;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    BenchError, failed,
    recipe::{Layer, Made},
};
use crate::bench::samples::milliseconds;

/// What a pull takes at least: the larger of its slowest part, and of the processor time of all parts on all processors.
#[derive(Debug, Clone, Serialize)]
pub struct LimitReport {
    /// Every layer over loopback, as many at a time as there are processors.
    pub fetch: StageReport,
    /// SHA-256 of the layers, gunzip, SHA-256 of the archives, on all processors.
    pub hash_and_inflate: StageReport,
    /// The archives' files onto the disk, on all processors.
    pub untar: StageReport,
    /// Milliseconds.
    pub limit_ms: f64,
}

/// The fastest of all rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StageReport {
    /// Milliseconds.
    pub wall_ms: f64,
    /// Processor time, milliseconds.
    pub cpu_ms: f64,
}

/// The stages' fastest so far.
#[derive(Debug, Default)]
pub(super) struct Stages {
    fetch: Option<Cost>,
    hash_and_inflate: Option<Cost>,
    untar: Option<Cost>,
}

#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: Duration,
    processor: Duration,
}

impl Stages {
    /// Takes each stage once. `unpacked` is made, and removed. Blocks.
    pub(super) fn round(
        mut self,
        image: &Made,
        registry: SocketAddr,
        unpacked: &Path,
    ) -> Result<Self, BenchError> {
        let layers = &image.layers;
        let cost = stage(layers, |_, layer| fetch(registry, image.name, layer))
            .map_err(|source| failed("fetch the layers", source))?;
        keep(&mut self.fetch, cost);
        let cost = stage(layers, |_, layer| hash_and_inflate(layer))
            .map_err(|source| failed("inflate the layers", source))?;
        keep(&mut self.hash_and_inflate, cost);
        let archives = unpacked.with_extension("archives");
        let untarred = inflated(layers, &archives).and_then(|()| {
            fs::create_dir(unpacked)?;
            rustix::fs::sync();
            stage(layers, |index, _| {
                let archive = File::open(archives.join(index.to_string()))?;
                let target = unpacked.join(index.to_string());
                fs::create_dir(&target)?;
                tar::Archive::new(BufReader::with_capacity(256 << 10, archive)).unpack(&target)
            })
        });
        let removed = fs::remove_dir_all(&archives).and(fs::remove_dir_all(unpacked));
        keep(
            &mut self.untar,
            untarred.map_err(|source| failed("untar the layers", source))?,
        );
        removed.map_err(|source| failed("remove what was untarred", source))?;
        Ok(self)
    }

    pub(super) fn report(&self) -> LimitReport {
        let stages = [self.fetch, self.hash_and_inflate, self.untar];
        let slowest = stages
            .iter()
            .flatten()
            .map(|cost| cost.wall)
            .max()
            .unwrap_or_default();
        let processor: Duration = stages.iter().flatten().map(|cost| cost.processor).sum();
        let limit = slowest.max(processor / u32::try_from(processors()).unwrap_or(1));
        let [fetch, hash_and_inflate, untar] = stages.map(|cost| {
            let cost = cost.unwrap_or(Cost {
                wall: Duration::ZERO,
                processor: Duration::ZERO,
            });
            StageReport {
                wall_ms: milliseconds(cost.wall),
                cpu_ms: milliseconds(cost.processor),
            }
        });
        LimitReport {
            fetch,
            hash_and_inflate,
            untar,
            limit_ms: milliseconds(limit),
        }
    }
}

fn keep(fastest: &mut Option<Cost>, cost: Cost) {
    *fastest = Some(match *fastest {
        None => cost,
        Some(known) => Cost {
            wall: known.wall.min(cost.wall),
            processor: known.processor.min(cost.processor),
        },
    });
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Does `work` for every layer, as many at a time as there are processors. The processor time is that of the threads that work: the registry's,
/// in this process too, is nobody's pull.
fn stage(
    layers: &[Layer],
    work: impl Fn(usize, &Layer) -> io::Result<()> + Sync,
) -> io::Result<Cost> {
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let processor = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..processors())
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(layer) = layers.get(index) else {
                            let time =
                                rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
                            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                            let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
                            return io::Result::Ok(Duration::new(seconds, nanoseconds));
                        };
                        work(index, layer)?;
                    }
                })
            })
            .collect();
        let times = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
        });
        times.sum::<io::Result<Duration>>()
    })?;
    Ok(Cost {
        wall: begun.elapsed(),
        processor,
    })
}

fn fetch(registry: SocketAddr, name: &str, layer: &Layer) -> io::Result<()> {
    let mut stream = TcpStream::connect(registry)?;
    write!(
        stream,
        "GET /v2/bench/{name}/blobs/{} HTTP/1.1\r\nHost: {registry}\r\n\r\n",
        layer.digest
    )?;
    let mut buffer = vec![0; 256 << 10];
    let mut left = layer.bytes;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    while left > 0 {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(read as u64);
    }
    Ok(())
}

fn hash_and_inflate(layer: &Layer) -> io::Result<()> {
    let packed = Hashed::new(File::open(&layer.path)?);
    let mut archive = Hashed::new(GzDecoder::new(BufReader::with_capacity(256 << 10, packed)));
    let mut buffer = vec![0; 256 << 10];
    while archive.read(&mut buffer)? > 0 {}
    std::hint::black_box(archive.hasher.finalize());
    std::hint::black_box(archive.inner.into_inner().into_inner().hasher.finalize());
    Ok(())
}

/// The archives in files, so that nothing but untarring is measured.
fn inflated(layers: &[Layer], directory: &Path) -> io::Result<()> {
    fs::create_dir(directory)?;
    for (index, layer) in layers.iter().enumerate() {
        let mut archive = GzDecoder::new(BufReader::new(File::open(&layer.path)?));
        io::copy(
            &mut archive,
            &mut File::create(directory.join(index.to_string()))?,
        )?;
    }
    Ok(())
}

struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R> Hashed<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
        }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
