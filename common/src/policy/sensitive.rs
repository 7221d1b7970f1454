//! Owns the places where tolerance lets code run or rights be had. Must not own judging: these are for whoever reviews a
//! policy.
//!
//! Sources: `ld.so(8)`, `crontab(5)`, `sudoers(5)`, `systemd.unit(5)`, `pam.conf(5)`, `sshd(8)`, `bash(1)`,
//! `modprobe.d(5)`, `polkit(8)`, `dpkg(1)`, `apt.conf(5)`, `profile(5)`, hier(7).

/// What a place does, and its patterns.
pub(super) const PLACES: &[(&str, &[&str])] = &[
    (
        "programs on PATH",
        &["bin/**", "sbin/**", "usr/bin/**", "usr/sbin/**", "usr/local/bin/**", "usr/local/sbin/**", "usr/games/**"],
    ),
    (
        "libraries that the loader loads",
        &["lib/**", "lib32/**", "lib64/**", "usr/lib/**", "usr/lib32/**", "usr/lib64/**", "usr/local/lib/**"],
    ),
    ("what the loader preloads and where it looks", &["etc/ld.so.*", "etc/ld.so.conf.d/**"]),
    ("programs and data of packages", &["usr/libexec/**", "usr/share/**", "opt/**"]),
    (
        "kernels, modules and what starts them",
        &["boot/**", "lib/modules/**", "usr/lib/modules/**", "etc/modprobe.d/**"],
    ),
    ("cron and at", &["etc/cron*/**", "etc/crontab", "etc/anacrontab", "var/spool/cron/**", "var/spool/at/**"]),
    (
        "units of systemd and init scripts",
        &["etc/systemd/**", "usr/local/lib/systemd/**", "etc/init.d/**", "etc/rc*.d/**", "etc/rc.local", "etc/inittab"],
    ),
    ("who may become root", &["etc/sudoers", "etc/sudoers.d/**", "etc/doas.conf", "etc/polkit-1/**"]),
    (
        "accounts, passwords and groups",
        &["etc/passwd", "etc/shadow", "etc/group", "etc/gshadow", "etc/subuid", "etc/subgid"],
    ),
    ("authentication", &["etc/pam.d/**", "etc/pam.conf", "etc/security/**", "etc/nsswitch.conf", "etc/krb5*"]),
    (
        "who may log in over ssh",
        &[
            "root/.ssh/**",
            "home/*/.ssh/**",
            "var/lib/*/.ssh/**",
            "etc/ssh/sshd_config",
            "etc/ssh/sshd_config.d/**",
            "etc/ssh/authorized_keys*/**",
        ],
    ),
    (
        "what shells run when they start",
        &["etc/profile", "etc/profile.d/**", "etc/bash.bashrc", "etc/environment", "root/.*", "home/*/.*"],
    ),
    (
        "what packages are installed from, and what runs then",
        &[
            "etc/apt/**",
            "etc/yum.repos.d/**",
            "etc/dnf/**",
            "var/lib/dpkg/info/**",
            "etc/dpkg/**",
            "etc/pki/rpm-gpg/**",
            "usr/share/keyrings/**",
        ],
    ),
    ("whom TLS trusts", &["etc/ssl/certs/**", "etc/pki/ca-trust/**", "usr/local/share/ca-certificates/**"]),
    ("what the kernel and udev run", &["etc/udev/**", "etc/sysctl.conf", "etc/sysctl.d/**", "etc/binfmt.d/**"]),
    ("which program an alternative is", &["etc/alternatives/**"]),
];
