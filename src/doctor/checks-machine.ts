// Judges the machine: kernel, rights, memory, clock, DNS, disk. Who: checks.ts. Pure: facts in, findings out.
// The thresholds stand here, each with its reason.
import { engineOptions } from '../config/defaults.js';
import { SESSION_BYTES } from '../engine/abi.generated.js';
import { fail, isKnown, judge, ok, skipped, Unknown, warn, type Finding } from './finding.js';
import type { DoctorFacts, PathFacts } from './facts.js';

const KERNEL_MIN: readonly [number, number] = [5, 18];   // bpf_xdp_load_bytes, which the steering program calls
const KERNEL_TESTED: readonly [number, number] = [6, 1]; // Debian 12's; older ones run in no test
const FRAME_BYTES = 4096;                  // a packet buffer
const SESSION_OVERHEAD_FACTOR = 1.7;       // index, timer and mapping beside each session: 320 bytes in all
const WORKERS_AUTO_MAX = 16;               // as src/supervisor/up.ts
const STATE_BYTES_FAIL = 32 * 1024 ** 2;   // a configuration of 16 MiB, twice: the old and the new one
const STATE_BYTES_WARN = 512 * 1024 ** 2;  // room for history and the audit log of a year
const STATE_FILES_WARN = 1000;
const MEMORY_RESERVE = 0.9;                // of what is available: the kernel and control need some, too

/** Bits of /proc/self/status CapEff, by linux/capability.h. */
const CAPABILITIES = { CAP_NET_ADMIN: 12, CAP_NET_RAW: 13, CAP_IPC_LOCK: 14, CAP_SYS_ADMIN: 21, CAP_PERFMON: 38, CAP_BPF: 39 } as const;

export function checkKernel(facts: DoctorFacts): Finding[] {
  const [major = 0, minor = 0] = facts.kernel.split('.').map(Number.parseFloat);
  const isBefore = ([a, b]: readonly [number, number]): boolean => major < a || (major === a && minor < b);
  const version = ((): Finding => {
    if (isBefore(KERNEL_MIN)) return fail('kernel.version', `Linux ${facts.kernel}`, `the steering program needs Linux ${KERNEL_MIN.join('.')} or later: it will not load`, 'boot a later kernel; Debian 12 has 6.1, backports have later ones');
    if (isBefore(KERNEL_TESTED)) return warn('kernel.version', `Linux ${facts.kernel}`, `Sluice is tested with ${KERNEL_TESTED.join('.')} and later`, 'boot a later kernel');
    return ok('kernel.version', `Linux ${facts.kernel}`);
  })();
  return [
    version,
    ...judge('kernel.af-xdp', facts.xdpSockets, (has) => (has ? ok('kernel.af-xdp', 'AF_XDP sockets are there')
      : fail('kernel.af-xdp', 'no AF_XDP sockets', 'packets cannot reach the engine', 'boot a kernel with CONFIG_XDP_SOCKETS=y'))),
    ...judge('kernel.bpf', facts.bpfFilesystem, (has) => (has ? ok('kernel.bpf', 'BPF and its file system are there')
      : fail('kernel.bpf', 'no BPF file system', 'programs cannot be kept alive over a restart of the engine', 'boot a kernel with CONFIG_BPF_SYSCALL=y'))),
    facts.btf ? ok('kernel.btf', 'type information (BTF) is there')
      : warn('kernel.btf', 'no type information at /sys/kernel/btf/vmlinux', 'programs that follow the kernel\'s own types cannot be loaded', 'boot a kernel with CONFIG_DEBUG_INFO_BTF=y'),
    ...judge('kernel.bpf-jit', facts.jit, (jit) => (jit === '0'
      ? warn('kernel.bpf-jit', 'BPF programs are interpreted', 'each packet costs several times as much', 'sysctl -w net.core.bpf_jit_enable=1')
      : ok('kernel.bpf-jit', 'BPF programs are compiled'))),
    facts.tun ? ok('kernel.tun', '/dev/net/tun is there')
      : fail('kernel.tun', '/dev/net/tun is missing', 'packets that the engine hands back to the host have no way there', 'modprobe tun'),
    ...judge('kernel.lockdown', isKnown(facts.lockdown) ? facts.lockdown : 'none', (mode) => (mode === 'confidentiality'
      ? warn('kernel.lockdown', 'the kernel is locked down for confidentiality', 'it may refuse BPF programs that read its memory', 'boot with lockdown=integrity when the engine cannot load its programs')
      : ok('kernel.lockdown', `kernel lockdown: ${mode}`))),
  ];
}

export function checkRights(facts: DoctorFacts): Finding[] {
  const missing = Object.entries(CAPABILITIES).filter(([, bit]) => isKnown(facts.capabilities) && ((facts.capabilities >> BigInt(bit)) & 1n) === 0n).map(([name]) => name);
  const rights = facts.isRoot
    ? judge('rights.capabilities', facts.capabilities, () => (missing.length === 0 ? ok('rights.capabilities', 'root, with the capabilities that the appliance needs')
      : fail('rights.capabilities', `root, but without ${missing.join(', ')}`, '`sluice up` cannot attach programs or set addresses', 'run it outside of this container, or give it these capabilities')))
    : [skipped('rights.capabilities', new Unknown('this is not root, so nothing can be said about what root may; run `sluice doctor` as root'))];
  return [
    ...rights,
    ...judge('rights.memlock', facts.isRoot ? facts.memlockBytes : new Unknown('the limit that counts is root\'s'), (bytes) => {
      if (bytes === Infinity) return ok('rights.memlock', 'no limit of locked memory');
      const hasIpcLock = isKnown(facts.capabilities) && ((facts.capabilities >> BigInt(CAPABILITIES.CAP_IPC_LOCK)) & 1n) === 1n;
      if (hasIpcLock) return ok('rights.memlock', `locked memory is limited to ${megabytes(bytes)}, but CAP_IPC_LOCK is exempt`);
      const needed = frameBytes(facts);
      return bytes >= needed ? ok('rights.memlock', `locked memory up to ${megabytes(bytes)}`)
        : warn('rights.memlock', `locked memory is limited to ${megabytes(bytes)}`, `packet buffers take ${megabytes(needed)}; without CAP_IPC_LOCK the engine gets none`, 'start it as root, or set LimitMEMLOCK=infinity');
    }),
    ...judge('rights.control', facts.control, ({ user, isAccount, barrier }) => {
      if (barrier !== undefined) return warn('rights.control', `user ${user} may not pass ${barrier}`, 'control stays root', `chmod o+x ${barrier}, or choose a --dir that others may enter, like /run/sluice`);
      return isAccount ? ok('rights.control', `control runs as user ${user}`)
        : warn('rights.control', 'there is no user sluice', `control runs as uid ${user}, which no account names, and no group lets people use the API without root`, 'run packaging/install.sh, or systemd-sysusers with its sluice.conf');
    }),
  ];
}

function workersOf(facts: DoctorFacts): number {
  const workers = isKnown(facts.config) && facts.config.config ? engineOptions(facts.config.config).workers : 'auto';
  return workers === 'auto' ? Math.min(facts.processors, WORKERS_AUTO_MAX) : workers;
}

function frameBytes(facts: DoctorFacts): number {
  return workersOf(facts) * engineOptions(isKnown(facts.config) && facts.config.config ? facts.config.config : { version: 1 }).framesPerWorker * FRAME_BYTES;
}

export function checkResources(facts: DoctorFacts): Finding[] {
  const { sessionsMax } = engineOptions(isKnown(facts.config) && facts.config.config ? facts.config.config : { version: 1 });
  const needed = Math.round(frameBytes(facts) + sessionsMax * SESSION_BYTES * SESSION_OVERHEAD_FACTOR);
  const isRunning = isKnown(facts.appliance) && facts.appliance !== 'not running';
  const workers = workersOf(facts);
  const huge = facts.memory.transparentHugePages;
  return [
    ...judge('memory.available', facts.memory.availableBytes, (available) => {
      const detail = `${megabytes(available)} of ${megabytes(facts.memory.totalBytes)} are free; packet buffers and ${sessionsMax.toLocaleString('en-US')} sessions take ${megabytes(needed)}`;
      if (isRunning || needed <= available * MEMORY_RESERVE) return ok('memory.available', detail);
      return needed > facts.memory.totalBytes ? fail('memory.available', detail, 'the engine cannot start, or the machine runs out of memory', 'lower limits.sessions or engine.framesPerWorker, or add memory')
        : warn('memory.available', detail, 'little is left for all else', 'lower limits.sessions or engine.framesPerWorker, or end other programs');
    }),
    ...judge('memory.huge-pages', huge, (mode) => (mode === 'never'
      ? warn('memory.huge-pages', 'transparent huge pages are off', 'looking up sessions in a large table misses the TLB more often', 'echo madvise >/sys/kernel/mm/transparent_hugepage/enabled')
      : ok('memory.huge-pages', `transparent huge pages: ${mode}`))),
    workers > facts.processors
      ? warn('cpu.workers', `${workers} workers on ${facts.processors} processors`, 'workers wait for each other', 'set engine.workers to auto')
      : ok('cpu.workers', `${workers} workers on ${facts.processors} processors`),
  ];
}

export function checkClockAndNames(facts: DoctorFacts): Finding[] {
  return [
    ...judge('clock.synchronised', facts.clock, ({ isSynchronised, source }) => (isSynchronised ? ok('clock.synchronised', `the clock is synchronised (${source})`)
      : warn('clock.synchronised', `the clock is not synchronised (${source})`, 'times in records are wrong, and certificates and tokens may be refused', 'apt-get install chrony, and let UDP port 123 through'))),
    ...judge('dns.servers', facts.dns, (servers) => {
      if (servers.length === 0) return warn('dns.servers', 'no name server is configured', 'names in configuration and logs cannot be resolved', 'add a nameserver to /etc/resolv.conf');
      return servers.map(({ server, answer }) => (answer === 'answers' ? ok('dns.servers', `${server} answers`)
        : warn('dns.servers', `${server} ${answer === 'fails' ? 'answers that it failed' : 'does not answer'}`, 'names may not be resolved', `check that server, and that UDP port 53 reaches it: /etc/resolv.conf`)));
    }),
  ];
}

export function checkDirectories(facts: DoctorFacts): Finding[] {
  const place = (check: string, { path, exists, writable, openToOthers }: PathFacts): Finding => {
    if (openToOthers) return fail(check, `everybody may write in ${path}`, 'others could put files of their own in the appliance\'s place', `chmod o-w ${path}`);
    if (!writable && facts.isRoot) return fail(check, `${path} cannot be written`, 'the appliance cannot start', 'mount it writable, or choose another --dir');
    if (!writable) return skipped(check, new Unknown(`${path} is for root`));
    return ok(check, exists ? path : `${path} will be made`);
  };
  return [
    place('directory.run', facts.run), place('directory.state', facts.state),
    ...judge('directory.space', facts.state.freeBytes, (bytes) => {
      const detail = `${megabytes(bytes)} are free in ${facts.state.path}`;
      if (bytes < STATE_BYTES_FAIL) return fail('directory.space', detail, 'a commit cannot be kept, so it is refused', 'delete what fills the disk, or give it more room');
      if (bytes < STATE_BYTES_WARN) return warn('directory.space', detail, 'history and audit log may fill it', 'give it more room');
      return ok('directory.space', detail);
    }),
    ...(isKnown(facts.state.freeFiles) && facts.state.freeFiles < STATE_FILES_WARN
      ? [warn('directory.files', `${facts.state.freeFiles} more files fit in ${facts.state.path}`, 'new revisions cannot be kept', 'delete small files on that file system')] : []),
  ];
}

export function checkInstallation(facts: DoctorFacts): Finding[] {
  const missing = Object.entries(facts.tools).filter(([, isThere]) => !isThere).map(([tool]) => tool);
  const unbuilt = Object.entries(facts.build).filter(([, isThere]) => !isThere).map(([part]) => (part === 'addon' ? 'the packet engine' : 'the steering program'));
  return [
    ok('installation.node', `Node.js ${facts.node}`),
    unbuilt.length === 0 ? ok('installation.build', 'packet engine and steering program are built')
      : fail('installation.build', `${unbuilt.join(' and ')} is not built`, '`sluice up` refuses to start', 'npm run setup'),
    missing.length === 0 ? ok('installation.tools', `${Object.keys(facts.tools).join(', ')} are there`)
      : fail('installation.tools', `not installed: ${missing.join(', ')}`, 'devices cannot be set up or examined', 'apt-get install iproute2 ethtool nftables util-linux findutils'),
  ];
}

export function megabytes(bytes: number): string {
  return bytes >= 1024 ** 3 ? `${(bytes / 1024 ** 3).toFixed(1)} GiB` : `${Math.round(bytes / 1024 ** 2)} MiB`;
}
