use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{BenchError, LimitReport, RecipeReport, failed};

/// What images are made of.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) name: &'static str,
    what: &'static str,
    /// By the layers that each image has, from the pool.
    images: Vec<Vec<usize>>,
    pool: Vec<LayerRecipe>,
}

#[derive(Debug, Clone, Copy)]
struct LayerRecipe {
    files: u64,
    file_bytes: u64,
}

/// Images that are there to be served.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) name: &'static str,
    what: &'static str,
    pub(super) layers: Arc<Vec<Layer>>,
    /// Each with its configuration.
    pub(super) manifests: Vec<Document>,
    pub(super) configurations: Vec<Document>,
}

/// A compressed layer in a file.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) path: PathBuf,
    pub(super) digest: String,
    pub(super) bytes: u64,
    diff_id: String,
    unpacked_bytes: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) digest: String,
    pub(super) text: String,
}

/// Of every block of a file, so much cannot be compressed: what makes 200 MB to 78.
const RANDOM_PERCENT: usize = 37;
const BLOCK: usize = 4096;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

impl Recipe {
    /// Those that are named; all, if none is.
    pub(super) fn chosen(names: &[String], scale_percent: u64) -> Result<Vec<Self>, BenchError> {
        let all = Self::all(scale_percent);
        if let Some(unknown) = names
            .iter()
            .find(|name| all.iter().all(|it| it.name != **name))
        {
            let known: Vec<_> = all.iter().map(|it| it.name).collect();
            let source = io::Error::other(format!("there are {}", known.join(", ")));
            return Err(failed(&format!("find the image {unknown:?}"), source));
        }
        let wanted = |it: &Self| names.is_empty() || names.iter().any(|name| name == it.name);
        Ok(all.into_iter().filter(wanted).collect())
    }

    fn all(scale_percent: u64) -> Vec<Self> {
        let layer = |files: u64, file_bytes| LayerRecipe {
            files: (files * scale_percent / 100).max(1),
            file_bytes,
        };
        let own = |count: usize, recipe| (vec![(0..count).collect()], vec![recipe; count]);
        let (five, five_pool) = own(5, layer(160, 256 << 10));
        let (forty, forty_pool) = own(40, layer(80, 64 << 10));
        let (giant, giant_pool) = own(1, layer(128, 8 << 20));
        let (small, small_pool) = own(20, layer(1000, 2 << 10));
        // Three layers that all have, and two of each one's own.
        let shared = (0..10).map(|image| vec![0, 1, 2, 3 + 2 * image, 4 + 2 * image]);
        let mut shared_pool = vec![layer(80, 256 << 10); 3];
        shared_pool.extend(vec![layer(20, 256 << 10); 20]);
        vec![
            Self {
                name: "five",
                what: "5 layers, 200 MB",
                images: five,
                pool: five_pool,
            },
            Self {
                name: "forty",
                what: "40 layers, 200 MB",
                images: forty,
                pool: forty_pool,
            },
            Self {
                name: "giant",
                what: "a layer of 1 GB",
                images: giant,
                pool: giant_pool,
            },
            Self {
                name: "small",
                what: "20 layers of 1,000 small files",
                images: small,
                pool: small_pool,
            },
            Self {
                name: "shared",
                what: "10 images that share layers",
                images: shared.collect(),
                pool: shared_pool,
            },
        ]
    }

    /// Makes the images' files in `directory`. Blocks.
    pub(super) fn make(&self, directory: &Path) -> Result<Made, BenchError> {
        let made = || -> io::Result<Made> {
            fs::create_dir(directory)?;
            let mut layers = Vec::with_capacity(self.pool.len());
            for (index, recipe) in self.pool.iter().enumerate() {
                layers.push(recipe.make(&directory.join(index.to_string()), index)?);
            }
            let mut made = Made {
                name: self.name,
                what: self.what,
                layers: Arc::new(layers),
                manifests: Vec::new(),
                configurations: Vec::new(),
            };
            for (index, chosen) in self.images.iter().enumerate() {
                let chosen: Vec<&Layer> = chosen.iter().map(|&layer| &made.layers[layer]).collect();
                let (manifest, configuration) = documents(self.name, index, &chosen);
                made.manifests.push(manifest);
                made.configurations.push(configuration);
            }
            Ok(made)
        };
        made().map_err(|source| failed(&format!("make the image {:?}", self.name), source))
    }
}

impl Made {
    pub(super) fn references(&self, registry: SocketAddr) -> Vec<String> {
        (0..self.manifests.len())
            .map(|index| format!("{registry}/bench/{}:{index}", self.name))
            .collect()
    }

    pub(super) fn report(&self, limit: LimitReport) -> RecipeReport {
        RecipeReport {
            name: self.name.to_owned(),
            what: self.what.to_owned(),
            count: self.manifests.len(),
            layers: self.layers.len(),
            unpacked_bytes: self.layers.iter().map(|layer| layer.unpacked_bytes).sum(),
            compressed_bytes: self.layers.iter().map(|layer| layer.bytes).sum(),
            limit,
        }
    }
}

impl LayerRecipe {
    fn make(self, path: &Path, index: usize) -> io::Result<Layer> {
        let file = BufWriter::new(File::create(path)?);
        let compressor = GzEncoder::new(Counted::new(file), Compression::default());
        let mut archive = tar::Builder::new(Counted::new(compressor));
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ (index as u64 + 1));
        let mut contents = vec![0; usize::try_from(self.file_bytes).unwrap_or(0)];
        for number in 0..self.files {
            let directory = format!("layer-{index}/{}", number / 100);
            if number % 100 == 0 {
                let mut header = tar::Header::new_ustar();
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                archive.append_data(&mut header, format!("{directory}/"), io::empty())?;
            }
            noise.fill(&mut contents);
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(self.file_bytes);
            archive.append_data(&mut header, format!("{directory}/{number}"), &*contents)?;
        }
        let (compressor, diff_id, unpacked_bytes) = archive.into_inner()?.end();
        let (mut file, digest, bytes) = compressor.finish()?.end();
        file.flush()?;
        Ok(Layer {
            path: path.to_owned(),
            digest,
            bytes,
            diff_id,
            unpacked_bytes,
        })
    }
}

fn documents(name: &str, index: usize, layers: &[&Layer]) -> (Document, Document) {
    let configuration = document(&json!({
        "architecture": match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        "os": "linux",
        "config": { "Labels": { "longshore.bench": format!("{name}-{index}") } },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>() },
    }));
    let layers: Vec<_> = (layers.iter())
        .map(|layer| json!({ "mediaType": LAYER, "digest": layer.digest, "size": layer.bytes }))
        .collect();
    let manifest = document(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIGURATION, "digest": configuration.digest, "size": configuration.text.len() },
        "layers": layers,
    }));
    (manifest, configuration)
}

fn document(value: &serde_json::Value) -> Document {
    let text = value.to_string();
    Document {
        digest: format!("sha256:{}", hex::encode(Sha256::digest(&text))),
        text,
    }
}

/// Counts and hashes what is written through it.
struct Counted<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> Counted<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    fn end(self) -> (W, String, u64) {
        let digest = format!("sha256:{}", hex::encode(self.hasher.finalize()));
        (self.inner, digest, self.bytes)
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Marsaglia's xorshift: the same images in every run.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for block in bytes.chunks_mut(BLOCK) {
            let (random, text) = block.split_at_mut(block.len() * RANDOM_PERCENT / 100);
            for piece in random.chunks_mut(8) {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                piece.copy_from_slice(&self.0.to_le_bytes()[..piece.len()]);
            }
            let words = b"the quick brown fox jumps over the lazy dog; ";
            for piece in text.chunks_mut(words.len()) {
                piece.copy_from_slice(&words[..piece.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn images_are_what_they_say() {
        let scratch = tempfile::tempdir().unwrap();
        for recipe in Recipe::chosen(&[], 1).unwrap() {
            let made = recipe.make(&scratch.path().join(recipe.name)).unwrap();
            for layer in made.layers.iter() {
                let packed = fs::read(&layer.path).unwrap();
                assert_eq!(packed.len() as u64, layer.bytes);
                assert_eq!(
                    layer.digest,
                    format!("sha256:{}", hex::encode(Sha256::digest(&packed)))
                );
                let mut archive = Vec::new();
                flate2::read::GzDecoder::new(&*packed)
                    .read_to_end(&mut archive)
                    .unwrap();
                assert_eq!(archive.len() as u64, layer.unpacked_bytes);
                let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(&archive)));
                assert_eq!(layer.diff_id, diff_id);
            }
        }
        assert!(Recipe::chosen(&["none".into()], 1).is_err());
    }

    #[test]
    fn full_sizes_are_those_of_the_targets() {
        let bytes = |name: &str| -> u64 {
            let recipes = Recipe::chosen(&[name.to_owned()], 100).unwrap();
            recipes[0]
                .pool
                .iter()
                .map(|layer| layer.files * layer.file_bytes)
                .sum()
        };
        assert_eq!(bytes("five") >> 20, 200);
        assert_eq!(bytes("forty") >> 20, 200);
        assert_eq!(bytes("giant") >> 30, 1);
    }
}
