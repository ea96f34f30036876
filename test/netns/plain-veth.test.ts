// Hosts on plain veths, transmit checksum offload left on: frames arrive with partial checksums, which the appliance
// completes. The appliance is entered with `ip netns exec` here, which hides the system's /sys.

import { describe, expect, test } from 'vitest';
import { ADDRESSES, FAMILIES } from '../../lab/topology.js';
import { download, iperf, ping, udpExchange, upload, who } from '../../lab/traffic.js';
import { describeNetns, useLab } from './fixture.js';

const TRANSFER_BYTES = 20_000_000;

describeNetns('plain veth', () => {
  const bench = useLab({ checksumOffload: true, appliance: { enter: 'ip-netns' } });

  describe.each(FAMILIES)('%s', (family) => {
    const at = ADDRESSES[family];

    test('source NAT: HTTP both ways, UDP, fragments, ping', async () => {
      expect(await who(bench.lab, 'client', at.internet)).toMatchObject({ remote: at.nvaUntrust });
      expect(await download(bench.lab, 'client', at.far, TRANSFER_BYTES)).toMatchObject({ ok: true });
      expect(await upload(bench.lab, 'client', at.far, TRANSFER_BYTES)).toMatchObject({ ok: true });
      expect(await udpExchange(bench.lab, 'client', at.far, { size: 512 })).toMatchObject({ answered: 20, damaged: 0 });
      expect(await udpExchange(bench.lab, 'client', at.far, { count: 5, size: 4000 })).toMatchObject({ answered: 5, damaged: 0 });
      expect(await ping(bench.lab, 'client', at.far, { size: 4000 })).toMatchObject({ ok: true });
    });

    test('destination NAT, and no NAT', async () => {
      expect(await who(bench.lab, 'internet', at.nvaUntrust, 8443)).toMatchObject({ local: at.server, localPort: 443 });
      expect(await download(bench.lab, 'client', at.server, TRANSFER_BYTES)).toMatchObject({ ok: true });
      expect(await iperf(bench.lab, 'client', at.server, { seconds: 1 })).toMatchObject({ ok: true });
    });

    test('local services and own connections', async () => {
      expect(await ping(bench.lab, 'internet', at.nvaUntrust)).toMatchObject({ ok: true });
      expect(await who(bench.lab, 'nva', at.far)).toMatchObject({ remote: at.nvaUntrust });
    });
  });
});
