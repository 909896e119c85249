//! The sets of options, in the syntax of Docker's command line.
//!
//! Text in braces is replaced by a value of the sandbox, see `Sandbox`. `''` is an empty word, and `␠` is a space
//! within a word.

/// A pair of images, see `rig`: the first image of the tag, and the image that the tag moves to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Images {
    /// The images differ in everything except entrypoint and volumes. Neither has those.
    Plain,
    /// The images differ in the entrypoint too.
    Entrypoint,
    /// The images differ in the volumes too.
    Volumes,
    /// The old image has labels of `docker compose build`, and the new one does not.
    Compose,
}

impl Images {
    /// The role of the old image.
    pub(super) fn old_role(self) -> String {
        format!("{self:?}-a").to_lowercase()
    }

    /// The role of the new image.
    pub(super) fn new_role(self) -> String {
        format!("{self:?}-b").to_lowercase()
    }
}

/// How a container is created.
#[derive(Debug, Clone, Copy)]
pub(super) struct OptionSet {
    pub(super) name: &'static str,
    /// `run -d` or `create`.
    pub(super) verb: &'static str,
    pub(super) options: &'static str,
    pub(super) images: Images,
    /// The words after the image.
    pub(super) command: &'static str,
    /// Commands that run afterwards, one per line.
    pub(super) after: &'static str,
    /// The minor version of the API that introduced the options.
    pub(super) since: u16,
    /// The last minor version that accepts the options.
    pub(super) until: u16,
}

/// `docker run -d` on [`Images::Plain`].
pub(super) const fn run(name: &'static str, options: &'static str) -> OptionSet {
    OptionSet {
        name,
        verb: "run -d",
        options,
        images: Images::Plain,
        command: "",
        after: "",
        since: 0,
        until: u16::MAX,
    }
}

impl OptionSet {
    pub(super) const fn on(self, images: Images) -> Self {
        Self { images, ..self }
    }

    const fn command(self, command: &'static str) -> Self {
        Self { command, ..self }
    }

    pub(super) const fn after(self, after: &'static str) -> Self {
        Self { after, ..self }
    }

    const fn only_created(self) -> Self {
        Self { verb: "create", ..self }
    }

    const fn since(self, since: u16) -> Self {
        Self { since, ..self }
    }

    const fn until(self, until: u16) -> Self {
        Self { until, ..self }
    }
}

/// All sets.
pub(super) fn option_sets() -> Vec<OptionSet> {
    [of_config(), of_networks(), of_volumes(), of_host_config()].concat()
}

fn of_config() -> Vec<OptionSet> {
    use Images::{Compose, Entrypoint};
    vec![
        run("nothing", ""),
        run("t01 environment", "-e FOO=user -e VER=mine -e EMPTY="),
        run("t02 entrypoint disabled", "--entrypoint ''").on(Entrypoint).command("serve mine"),
        run("t03 command given", "").on(Entrypoint).command("serve mine"),
        run("t03 command given, no entrypoint", "").command("serve mine"),
        run("entrypoint and command of the image", "").on(Entrypoint),
        run("entrypoint given", "--entrypoint /bin/serve").on(Entrypoint),
        run("entrypoint and command given", "--entrypoint /bin/sh").on(Entrypoint).command("-c exec␠serve"),
        run("t04 stop signal and timeout given", "--stop-signal QUIT --stop-timeout 7"),
        run("t05 interval of the health check given", "--health-interval 3s"),
        run("t05 health check disabled", "--no-healthcheck"),
        run("t05 health check given", "--health-cmd hostname --health-retries 2 --health-start-period 1s"),
        run("t05 start interval of the health check given", "--health-start-interval 2s").since(44),
        run(
            "t06 compose labels that the old image has too",
            "-l com.docker.compose.project=p -l com.docker.compose.service=web -l com.docker.compose.config-hash=h",
        )
        .on(Compose),
        run("labels given", "-l mine=1 -l ver=mine -l empty="),
        run("t07 published port that the old image exposes", "-p 127.0.0.1:{port}:81"),
        run("t07 ports chosen by the engine", "-p 127.0.0.1::80 -p 91/udp --expose 90"),
        run("t07 all exposed ports published", "-P"),
        run("t08 host name given", "--hostname h --domainname d.example"),
        run("t08 host names of the host", "--uts host"),
        run("t45 user, groups and folder given", "-u 5:6 --group-add 7 -w /elsewhere/"),
        run("t45 terminal and input", "-i -t"),
        run("t45 platform given", "--platform {platform}"),
        run("t44 never started", "--restart always -e FOO=user").only_created(),
        run("t44 stopped", "--network {net} --network-alias web").after("stop {name}"),
    ]
}

fn of_networks() -> Vec<OptionSet> {
    vec![
        run("t08 t11 network of the host", "--network host"),
        run("t08 network of the host, host name given", "--network host --hostname h"),
        run("t11 no network", "--network none"),
        run("t11 default network by name", "--network bridge"),
        run("t09 aliases and a fixed address", "--network {net} --network-alias a --network-alias b --ip {ip}"),
        run("t09 t10 a second network, joined later", "--network {net} --network-alias a --ip {ip}")
            .after("network connect --alias later --ip {ip2} {net2} {name}"),
        run("t10 default network and another", "").after("network connect --alias later {net} {name}"),
        run("t12 MAC address on the default network", "--mac-address 02:11:22:33:44:55"),
        run("t12 MAC address on a user-defined network", "--network {net} --mac-address 02:11:22:33:44:66"),
        run(
            "t12 MAC address on the second network",
            "--network {net} --network name={net2},mac-address=02:11:22:33:44:77",
        )
        .since(44)
        .until(47),
        run("t13 network by short id", "--network {net-id} --network-alias a"),
        run("t14 disconnected from the primary network", "--network {net}")
            .after("network connect --alias later {net2} {name}\nnetwork disconnect {net} {name}"),
        run("t17 network of another container", "--network container:{peer}"),
        run("t17 processes and IPC of another container", "--pid container:{peer} --ipc container:{peer}"),
        run("t19 link", "--link {peer}:alias"),
        run("t19 link on a user-defined network", "--network {net} --link {peer}:alias")
            .after("network connect {net2} {name}"),
        run(
            "t36 settings of eth0 and of the namespace",
            "--sysctl net.ipv4.conf.eth0.log_martians=1 --sysctl net.core.somaxconn=99",
        )
        .until(47),
        run("t45 DNS and extra hosts", "--dns 10.0.0.1 --dns-search x.example --dns-opt ndots:2 --add-host a:10.0.0.2"),
    ]
}

fn of_volumes() -> Vec<OptionSet> {
    use Images::Volumes;
    vec![
        run("t15 volumes of the image", "").on(Volumes),
        run("t15 anonymous volume", "-v /x"),
        run("t15 anonymous volume at a volume of the image", "-v /data").on(Volumes),
        run(
            "t15 anonymous and named mounts",
            "--mount type=volume,dst=/m --mount type=volume,src={vol},dst=/n,volume-nocopy",
        ),
        run("t15 named volume at a volume of the image", "-v {vol}:/data").on(Volumes),
        run("named volume, read-only, and host folders", "-v {vol}:/named:ro -v /usr:/bound:ro").command("serve mine"),
        run("mounted host folder", "--mount type=bind,src=/usr,dst=/b,ro,bind-propagation=rprivate"),
        run("t17 volumes of another container", "--volumes-from {peer}:ro"),
        run("t17 volumes of another container at a volume of the image", "--volumes-from {peer}").on(Volumes),
    ]
}

fn of_host_config() -> Vec<OptionSet> {
    vec![
        run("t45 read-only with tmpfs", "--read-only --tmpfs /t:size=1m --mount type=tmpfs,dst=/u,tmpfs-size=1048576"),
        run("t45 memory", "-m 64m --memory-reservation 32m --memory-swap 96m"),
        run("t45 processors", "--cpus 0.5 --cpu-shares 512 --cpuset-cpus 0"),
        run("t45 processor quota", "--cpu-period 50000 --cpu-quota 25000"),
        run("t45 other limits", "--pids-limit 100 --oom-score-adj 100 --ulimit nofile=100:200 --ulimit core=0"),
        run("t45 shared memory", "--shm-size 8m --ipc shareable"),
        run("t45 namespaces of the host", "--pid host --ipc host --userns host"),
        run("t45 devices", "--device /dev/null:/dev/mine:rw --device-cgroup-rule c␠1:3␠rwm"),
        run("t45 GPUs", "--gpus all").only_created(),
        run("t45 capabilities", "--cap-add NET_ADMIN --cap-drop MKNOD --security-opt no-new-privileges"),
        run("t45 privileged", "--privileged"),
        run("t45 nothing masked", "--security-opt systempaths=unconfined --security-opt seccomp=unconfined"),
        run("t45 log options", "--log-driver json-file --log-opt max-size=1m --log-opt max-file=2"),
        run("t45 no log", "--log-driver none"),
        run(
            "t45 runtime, init and cgroups",
            "--runtime runc --init --cgroup-parent /imagewatch-tests --cgroupns private",
        ),
        run("t45 restart on failure", "--restart on-failure:3"),
        run("t45 restart unless stopped", "--restart unless-stopped"),
        run("t45 annotations", "--annotation a=b").since(43),
    ]
}
