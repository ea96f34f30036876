// The forwarding table in people's words, read back from the snapshot that is in force: what the engine has, not what a file says.
// Who: /api/v1/routes. Pure. Bound: the snapshot's own route count.
import { NEXTHOP_BYTES, NEXTHOP_KINDS, ROUTE_BYTES, readNexthop, readRoute, readSnapshotHeader } from '../engine/abi.generated.js';
import { entryName, viewOf, type Names } from '../engine/records.js';
import { addressOfBytes, formatAddress, formatPrefix } from '../lib/address.js';

export interface RouteView { to: string; nexthops: { via: string | null; interface: string | null; kind: string }[] }

export function readRoutes(snapshot: Uint8Array, names: Names): RouteView[] {
  const view = viewOf(snapshot);
  const { routes, nexthops } = readSnapshotHeader(view, 0);
  return Array.from({ length: routes.count }, (_, index): RouteView => {
    const route = readRoute(view, routes.offset + index * ROUTE_BYTES);
    return {
      to: formatPrefix({ address: addressOfBytes(route.to.address), length: route.to.length }),
      nexthops: Array.from({ length: route.nexthops.count }, (_unused, hop) => {
        const nexthop = readNexthop(view, nexthops.offset + (route.nexthops.first + hop) * NEXTHOP_BYTES);
        const isForward = nexthop.kind === 0;
        return {
          via: isForward && nexthop.via.some((byte) => byte !== 0) ? formatAddress(nexthop.via) : null,
          interface: isForward ? names.interfaceAt(nexthop.interface) : null,
          kind: entryName(NEXTHOP_KINDS, nexthop.kind),
        };
      }),
    };
  });
}
