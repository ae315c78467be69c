use cri::v1::*;
use registry::image::Layer;

use crate::check::{
    case::{Case, Ended, Verdict, case, ensure, ensure_eq},
    scene::{Scene, security, spec},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "identity",
        "it runs as the number that is asked for",
        number
    ),
    case!("identity", "it runs as the name that is asked for", name),
    case!("identity", "it runs in the group that is asked for", group),
    case!("identity", "a group without a user is refused", lone_group),
    case!(
        "identity",
        "it runs as the image says where nothing is asked for",
        of_image
    ),
    case!("identity", "supplemental groups are added", supplemental),
    case!("identity", "groups of the image are merged in", merged),
    case!(
        "identity",
        "groups of the image are left out where that is asked for",
        strict
    ),
    case!("identity", "the user that it runs as is told", told),
    case!(
        "identity",
        "a name that the image does not have is refused",
        unknown_name
    ),
];

/// Without what busybox has to say of numbers that have no name.
const IDS: &str = "exec 2>/dev/null; id -u; id -g; id -G";

async fn ids(
    scene: &Scene<'_>,
    image: Option<&str>,
    edit: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> Verdict<(u64, u64, Vec<u64>)> {
    let pod = scene.any_pod().await?;
    let mut config = scene.script(&pod, "one", IDS);
    if let Some(image) = image {
        config.image = Some(spec(image));
    }
    edit(security(&mut config));
    let output = scene.written_by(&pod, config).await?;
    let mut numbers = output.split_whitespace().map(|word| word.parse::<u64>());
    let mut next = || numbers.next().and_then(Result::ok);
    let (Some(user), Some(group)) = (next(), next()) else {
        return Err(Ended::Failed(format!("no ids: {output:?}")));
    };
    let mut groups: Vec<u64> = numbers.map_while(Result::ok).collect();
    groups.sort_unstable();
    Ok((user, group, groups))
}

fn value(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

async fn number(scene: &Scene<'_>) -> Verdict {
    let (user, group, _) = ids(scene, None, |it| it.run_as_user = value(1001)).await?;
    ensure_eq!((user, group), (1001, 0), "user and group");
    Ok(())
}

async fn name(scene: &Scene<'_>) -> Verdict {
    let (user, group, _) =
        ids(scene, None, |it| it.run_as_username = "www-data".to_owned()).await?;
    ensure_eq!((user, group), (33, 33), "user and group");
    Ok(())
}

async fn group(scene: &Scene<'_>) -> Verdict {
    let (user, group, _) = ids(scene, None, |it| {
        it.run_as_user = value(1001);
        it.run_as_group = value(1002);
    })
    .await?;
    ensure_eq!((user, group), (1001, 1002), "user and group");
    Ok(())
}

async fn lone_group(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    security(&mut config).run_as_group = value(1002);
    ensure!(
        scene.try_create(&pod, config).await.is_err(),
        "it is created"
    );
    Ok(())
}

async fn of_image(scene: &Scene<'_>) -> Verdict {
    for (user, wanted) in [
        ("1002", (1002, 0)),
        ("www-data", (33, 33)),
        ("1003:1004", (1003, 1004)),
        ("www-data:1004", (33, 1004)),
    ] {
        let label = format!("u{}", user.replace(':', "-"));
        let image = scene.push(&label, "1", &scene.recipe(&label).user(user).build());
        scene.pull(&image).await?;
        let pod = scene.pod(scene.host_pod(&label)).await?;
        let mut config = scene.script(&pod, &label, "exec 2>/dev/null; id -u; id -g");
        config.image = Some(spec(&image));
        let output = scene.written_by(&pod, config).await?;
        let words: Vec<_> = output.split_whitespace().collect();
        ensure_eq!(
            words,
            [wanted.0.to_string(), wanted.1.to_string()],
            "user and group of USER {user}"
        );
    }
    Ok(())
}

async fn supplemental(scene: &Scene<'_>) -> Verdict {
    let (_, _, groups) = ids(scene, None, |it| it.supplemental_groups = vec![1234, 5678]).await?;
    ensure!(
        groups.contains(&1234) && groups.contains(&5678),
        "its groups are {groups:?}"
    );
    Ok(())
}

/// An image in which user 1000 is in group 50000.
async fn image(scene: &Scene<'_>) -> Verdict<String> {
    let files = Layer::new()
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/root:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\n",
        )
        .file(
            "etc/group",
            0o644,
            "root:x:0:\ndefault-user:x:1000:\ndefined-in-image:x:50000:default-user\n",
        );
    let image = scene.push(
        "own",
        "1",
        &scene.recipe("own").layer(files).user("1000").build(),
    );
    scene.pull(&image).await?;
    Ok(image)
}

async fn merged(scene: &Scene<'_>) -> Verdict {
    let image = image(scene).await?;
    let (user, group, groups) = ids(scene, Some(&image), |it| {
        it.supplemental_groups = vec![1234]
    })
    .await?;
    ensure_eq!((user, group), (1000, 1000), "user and group");
    ensure_eq!(groups, [1000, 1234, 50000], "all groups");
    Ok(())
}

async fn strict(scene: &Scene<'_>) -> Verdict {
    let features = scene.bed.status.features.unwrap_or_default();
    if !features.supplemental_groups_policy {
        return Err(Ended::Unimplemented("supplemental_groups_policy"));
    }
    let image = image(scene).await?;
    let (_, _, groups) = ids(scene, Some(&image), |it| {
        it.supplemental_groups = vec![1234];
        it.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
    })
    .await?;
    ensure_eq!(groups, [1000, 1234], "all groups");
    Ok(())
}

async fn told(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    let context = security(&mut config);
    context.run_as_user = value(1001);
    context.run_as_group = value(1002);
    context.supplemental_groups = vec![1234];
    let id = scene.run(&pod, config).await?;
    let Some(user) = scene.status(&id).await?.user.and_then(|user| user.linux) else {
        return Err(Ended::Unimplemented("ContainerStatus.user"));
    };
    ensure_eq!((user.uid, user.gid), (1001, 1002), "user and group");
    ensure!(
        user.supplemental_groups.contains(&1234),
        "its groups are {:?}",
        user.supplemental_groups
    );
    Ok(())
}

async fn unknown_name(scene: &Scene<'_>) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.sleeper(&pod, "one");
    security(&mut config).run_as_username = "nobody-of-that-name".to_owned();
    let Ok(id) = scene.try_create(&pod, config).await else {
        return Ok(());
    };
    ensure!(scene.start(&id).await.is_err(), "it runs, as somebody else");
    Ok(())
}
