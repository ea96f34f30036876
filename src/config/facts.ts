// Facts: what the machine has, as the engine process finds it. Input of check and compile, so that both stay pure.
//
// Who calls: the engine process gathers facts over netlink, `control` passes them on, `sluice check` may go without.

export interface DeviceAddress {
  /** Text, without length. */
  address: string;
  /** As people write it: 24 for an IPv4 /24. */
  prefixLength: number;
  /** Set by DHCP or router advertisements, may change. */
  dynamic: boolean;
}

export interface Device {
  name: string;
  ifindex: number;
  mtu: number;
  mac: string;
  /** Empty when the kernel names none. */
  driver: string;
  up: boolean;
  /** Receive queues. */
  queues: number;
  /** Kind as netlink says it: veth, vlan, vxlan; empty for hardware. */
  kind: string;
  /** VLAN devices only. */
  vlanId?: number;
  parentIfindex?: number;
  addresses: DeviceAddress[];
}

export interface Facts {
  devices: Device[];
  /** net.ipv4.ip_local_port_range: the kernel's own ephemeral ports, inclusive. */
  localPortRange?: [number, number];
}

export const LOCAL_PORT_RANGE_DEFAULT: readonly [number, number] = [32768, 60999];

/** The engine's own TUN device: by it packets reach the host's stack; the addresses of tunnel interfaces stand on it. One in a network namespace. */
export const HOST_DEVICE = 'sluice0';

const IFNAME_CHARACTERS_MAX = 15;

/** Name of the kernel's VLAN device, on which neighbours of a tagged interface are resolved. The host creates it. */
export function vlanDeviceName(device: string, vlan: number): string {
  const name = `${device}.${vlan}`;
  return name.length <= IFNAME_CHARACTERS_MAX ? name : `${device.slice(0, IFNAME_CHARACTERS_MAX - String(vlan).length - 1)}.${vlan}`;
}

/** The VLAN device of a tag, whatever its name. */
export function findVlanDevice(facts: Facts, parent: Device, vlan: number): Device | undefined {
  return facts.devices.find((device) => device.parentIfindex === parent.ifindex && device.vlanId === vlan);
}
