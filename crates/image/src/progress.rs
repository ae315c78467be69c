/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// What is being done.
    pub stage: PullStage,
    /// Bottom first; empty until the manifest is here.
    pub layers: Vec<LayerProgress>,
}

/// What a pull is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullStage {
    /// Asking the registry what the name means.
    #[default]
    Resolving,
    /// Fetching and unpacking layers.
    Layers,
    /// Recording the image.
    Recording,
}

/// How far one layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Digest of the compressed layer.
    pub digest: String,
    /// Compressed size.
    pub total_bytes: u64,
    /// Compressed bytes that have come in.
    pub fetched_bytes: u64,
    /// Where it is.
    pub stage: LayerStage,
}

/// Where a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStage {
    /// Its turn has not come.
    Waiting,
    /// Being fetched and unpacked at once.
    Fetching,
    /// On disk.
    Complete,
}
