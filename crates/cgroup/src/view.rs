use crate::hierarchy::Hierarchies;

/// What it takes to show a hierarchy to a container: mount it again.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The last component of its mount point.
    pub directory: &'a str,
    pub v2: bool,
    /// A v1 hierarchy's controllers, or `name=…`, as its mount options have them.
    pub controllers: &'a [String],
}

impl Hierarchies {
    /// Every hierarchy, in the order in which they were found.
    pub fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.all().iter().map(|hierarchy| View {
            directory: &hierarchy.directory,
            v2: hierarchy.v2,
            controllers: &hierarchy.controllers,
        })
    }
}
