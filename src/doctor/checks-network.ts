// Judges what concerns packets: the configuration, its devices, what else claims packets, ports, and the appliance that runs.
// Who: checks.ts. Pure: facts in, findings out.
import { findObstacles } from '../engine/conflicts.js';
import { asList } from '../config/schema-parts.js';
import type { Config } from '../config/schema.js';
import { listenPort } from '../config/wireguard.js';
import type { StatusView } from '../control/status.js';
import { devicesOf, type DoctorFacts, type Listener } from './facts.js';
import { fail, isKnown, judge, ok, skipped, Unknown, warn, type Finding } from './finding.js';

/** Drivers whose XDP runs in the driver itself. Of others the kernel's slower generic way is all there is, or we do not know. */
const NATIVE_DRIVERS = new Set([
  'mlx5_core', 'mlx4_en', 'mana', 'hv_netvsc', 'virtio_net', 'veth', 'tun', 'ena', 'gve', 'ixgbe', 'ixgbevf', 'i40e', 'iavf', 'ice', 'igb', 'igc',
  'bnxt_en', 'nfp', 'mvneta', 'stmmac', 'dpaa2', 'enetc', 'qede', 'sfc', 'netsec', 'cpsw', 'fec', 'tsnep', 'vmxnet3', 'xen_netfront',
]);
/** Software devices have no queues to speak of and no offloads in hardware. */
const SOFTWARE_KINDS = new Set(['veth', 'tun', 'bridge', 'dummy', 'vlan']);
const BUFFERS_FREE_WARN = 0.1;
const SESSIONS_WARN = 0.9;
const PROBLEMS_SHOWN = 10;

export function checkConfiguration(facts: DoctorFacts): Finding[] {
  return judge('configuration', facts.config, ({ file, problems, config }) => {
    const shown = problems.slice(0, PROBLEMS_SHOWN).map(({ line, path, message, remedy, severity }): Finding => {
      const detail = `${file}:${line}: ${path === '' ? '' : `${path}: `}${message}`;
      return severity === 'error' ? fail('configuration', detail, 'the appliance refuses this configuration', remedy || 'see `sluice check`')
        : warn('configuration', detail, 'the appliance takes it, but it may not do what was meant', remedy || 'see `sluice check`');
    });
    if (problems.length > PROBLEMS_SHOWN) shown.push(warn('configuration', `${problems.length - PROBLEMS_SHOWN} more problems`, 'not all are shown here', `sluice check --machine ${file}`));
    return config && problems.length === 0 ? ok('configuration', `${file} is good`) : shown;
  });
}

export function checkDevices(facts: DoctorFacts): Finding[] {
  const { host } = facts;
  if (!isKnown(host)) return [skipped('device', host)];
  const names = devicesOf(facts.config, facts.appliance);
  if (names.length === 0) return [skipped('device', new Unknown('no configuration names a device; use --config FILE'))];
  const findings = names.flatMap((name) => {
    const device = host.devices.find((one) => one.name === name);
    // With a configuration its own check says so, with the line.
    if (!device) return isKnown(facts.config) && facts.config.problems.length > 0 ? [] : [fail('device.present', `${name} is not there`, 'its interfaces carry nothing', 'see `ip link` for the devices of this machine')];
    const isSoftware = SOFTWARE_KINDS.has(device.kind) || SOFTWARE_KINDS.has(device.driver);
    return [
      driverOf(name, device.driver),
      ...(isSoftware ? [] : [queuesOf(facts, name, device.queues)]),
      ...offloadsOf(facts, name, isSoftware),
      host.carriers.includes(name) ? ok('device.link', `${name}: link is up`)
        : device.up ? warn('device.link', `${name}: no carrier`, 'nothing comes in or goes out', 'check the cable, or the other end')
          : ok('device.link', `${name}: down; \`sluice up\` sets it up`),
    ];
  });
  const own = applianceOf(facts)?.interfaces.filter((one) => one.xdpMode !== null).map((one) => one.device) ?? [];
  const obstacles = findObstacles(host, names, (device) => own.includes(device));
  if (!facts.firewallSeen) findings.push(skipped('foreign.firewall', new Unknown('only root may list nftables\' rules')));
  if (obstacles.length === 0) findings.push(ok('foreign', facts.firewallSeen ? 'no other program or firewall claims forwarded packets' : 'no other XDP program claims packets'));
  for (const { code, message, remedy } of obstacles) findings.push(fail(code === 'SLUICE_FOREIGN_XDP' ? 'foreign.xdp' : code === 'SLUICE_FOREIGN_FIREWALL' ? 'foreign.firewall' : 'foreign.forwarding', message, '`sluice up` refuses to start beside it', remedy));
  return findings;
}

function driverOf(name: string, driver: string): Finding {
  if (NATIVE_DRIVERS.has(driver)) return ok('device.driver', `${name}: driver ${driver} has XDP of its own`);
  return warn('device.driver', `${name}: driver ${driver || 'unknown'}`, 'it is not known to have XDP in the driver; the kernel\'s generic way is several times slower', 'use another kind of adapter, or set engine.mode to generic and accept it');
}

function queuesOf(facts: DoctorFacts, name: string, queues: number): Finding {
  const most = facts.maxQueues[name];
  const wanted = most !== undefined && isKnown(most) ? Math.min(most, facts.processors) : queues;
  if (queues >= wanted) return ok('device.queues', `${name}: ${queues} receive queues`);
  return warn('device.queues', `${name}: ${queues} receive queues of ${wanted} that it could use`, 'no more workers receive than the device with the fewest queues has', `ethtool -L ${name} combined ${wanted}`);
}

function offloadsOf(facts: DoctorFacts, name: string, isSoftware: boolean): Finding[] {
  const features = facts.features[name] ?? new Unknown('ethtool was not asked');
  return judge('device.offloads', features, (all) => {
    const findings: Finding[] = [];
    const lro = all['large-receive-offload'];
    if (lro?.on && lro.fixed) findings.push(fail('device.lro', `${name}: large receive offload is on and cannot be switched off`, 'the kernel refuses XDP beside it', 'use another adapter, or switch it off in the hypervisor'));
    else if (lro?.on) findings.push(ok('device.lro', `${name}: large receive offload is on; \`sluice up\` switches it off`));
    const gro = all['rx-gro-hw'];
    if (gro?.on) findings.push(gro.fixed ? fail('device.gro-hw', `${name}: receive coalescing in hardware is on and cannot be switched off`, 'the kernel refuses XDP beside it', 'switch it off in the hypervisor')
      : warn('device.gro-hw', `${name}: receive coalescing in hardware is on`, 'some drivers refuse XDP beside it', `ethtool -K ${name} rx-gro-hw off`));
    const vlan = all['rx-vlan-offload'];
    if (vlan?.on && !isSoftware) {
      const usesTags = isKnown(facts.config) && Object.values(facts.config.config?.interfaces ?? {}).some((one) => one.device === name && one.vlan !== undefined);
      const meaning = 'the adapter takes tags off before XDP sees the frame: frames of every VLAN look untagged and come in on the wrong interface';
      const remedy = vlan.fixed ? 'let the switch or hypervisor send untagged frames only' : `ethtool -K ${name} rx-vlan-offload off`;
      findings.push((usesTags ? fail : warn)('device.vlan-offload', `${name}: VLAN tags are taken off in hardware`, usesTags ? meaning : `${meaning}, if the network sends any`, remedy));
    }
    return findings.length === 0 ? ok('device.offloads', `${name}: no offload stands in the way of XDP`) : findings;
  });
}

export function checkPorts(facts: DoctorFacts): Finding[] {
  return judge('ports', facts.listeners, (listeners) => {
    const findings: Finding[] = [];
    const config = isKnown(facts.config) ? facts.config.config : undefined;
    const listen = (config as { api?: { listen?: string } } | undefined)?.api?.listen;
    const isRunning = applianceOf(facts) !== undefined;
    if (listen !== undefined && !isRunning) {
      const port = Number(/:(\d+)$/.exec(listen)?.[1]);
      const holder = listeners.find((one) => one.protocol === 'tcp' && one.port === port && (isAny(one.address) || listen.startsWith(`${one.address}:`)));
      findings.push(holder ? fail('ports.api', `api.listen ${listen}: another program listens there`, 'the API cannot be reached', `find it with ss -ltnp 'sport = :${port}', or choose another port`) : ok('ports.api', `api.listen ${listen} is free`));
    }
    if (!isRunning) findings.push(...tunnelPorts(config, listeners));
    findings.push(...exposed(facts, listeners));
    return findings.length === 0 ? ok('ports', 'no port is in the way') : findings;
  });
}

/** The engine takes a tunnel's port for itself, so that nobody answers on it; a kernel's WireGuard on the same port shows nothing here but its socket. */
function tunnelPorts(config: Config | undefined, listeners: readonly Listener[]): Finding[] {
  return Object.entries(config?.wireguard ?? {}).map(([name, tunnel]) => {
    const port = listenPort(tunnel);
    const isTaken = listeners.some((one) => one.protocol === 'udp' && one.port === port);
    return isTaken ? fail('ports.wireguard', `UDP port ${port} of tunnel ${name}: another program has it`, 'the tunnel has no port', `find it with ss -lunp 'sport = :${port}', or choose another listen:`) : ok('ports.wireguard', `UDP port ${port} of tunnel ${name} is free`);
  });
}

/** What is addressed to the appliance itself is the host's: no rule of ours filters it. */
function exposed(facts: DoctorFacts, listeners: readonly Listener[]): Finding[] {
  const config = isKnown(facts.config) ? facts.config.config : undefined;
  const own = new Set([...Object.values(config?.interfaces ?? {}), ...Object.values(config?.wireguard ?? {})].flatMap((one) => asList<string>(one.addresses).map((address) => address.split('/')[0]!)));
  if (own.size === 0) return [];
  const ours = new Set(Object.values(config?.wireguard ?? {}).map(listenPort)); // the engine's own sockets hold these
  const reachable = [...new Set(listeners.filter((one) => !(one.protocol === 'udp' && ours.has(one.port))).filter((one) => isAny(one.address) || own.has(one.address)).map((one) => `${one.protocol}/${one.port}`))];
  if (reachable.length === 0) return [ok('ports.exposed', 'no local service listens on the appliance\'s data addresses')];
  return [warn('ports.exposed', `local services listen on all addresses: ${reachable.slice(0, 12).join(', ')}${reachable.length > 12 ? ', …' : ''}`,
    'they can be reached through the data interfaces: firewall.rules judge what is forwarded, not what is for the host itself', 'bind them to a management address, or filter them with an nftables chain at the input hook')];
}

const isAny = (address: string): boolean => address === '0.0.0.0' || address === '::';

function applianceOf(facts: DoctorFacts): StatusView | undefined {
  return isKnown(facts.appliance) && facts.appliance !== 'not running' ? facts.appliance : undefined;
}

export function checkAppliance(facts: DoctorFacts): Finding[] {
  return judge('appliance', facts.appliance, (status) => {
    if (status === 'not running') return { check: 'appliance', level: 'skipped', detail: `no appliance runs in ${facts.run.path}` };
    const findings: Finding[] = [status.ready ? ok('appliance.ready', `ready, generation ${status.generation ?? 'none'}`)
      : fail('appliance.ready', `not ready: ${status.missing.join('; ')}`, 'new sessions are not let through', 'see the logs of engine and control, and `sluice status`')];
    const away = status.processes.filter((one) => one.state === 'away').map((one) => one.role);
    if (away.length > 0) findings.push((away.includes('engine') ? fail : warn)('appliance.processes', `away: ${away.join(', ')}`, 'what is away is not restarted, or has just ended', 'run `sluice up` again, or systemctl restart sluice'));
    for (const device of new Set(status.interfaces.filter((one) => one.xdpMode === 'generic').map((one) => one.device))) findings.push(warn('appliance.xdp-mode', `${device}: XDP runs in the kernel's generic way`, 'it is several times slower than in the driver', 'see device.driver, device.lro and device.gro-hw above'));
    for (const warning of status.warnings) findings.push(warn('appliance.warning', warning, 'the engine warns of it', 'see the engine\'s log'));
    const { sessions, buffers } = status;
    if (sessions && sessions.total > sessions.max * SESSIONS_WARN) findings.push(warn('appliance.sessions', `${sessions.total} of ${sessions.max} sessions`, 'when the table is full new sessions are dropped', 'raise limits.sessions'));
    if (buffers && buffers.total > 0 && buffers.free < buffers.total * BUFFERS_FREE_WARN) findings.push(warn('appliance.buffers', `${buffers.free} of ${buffers.total} packet buffers are free`, 'packets are dropped when there is none', 'raise engine.framesPerWorker'));
    return findings;
  });
}
