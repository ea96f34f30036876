// The generated side of the contract: is it current, and do readers return what writers wrote, at the header's offsets?
import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import * as abi from '../../src/engine/abi.generated.js';

const address = (last: number) => Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, last]);
const viewOf = (bytes: number) => new DataView(new ArrayBuffer(bytes));

describe('abi.generated.ts', () => {
  it('is what the header generates', () => {
    execFileSync('node', ['scripts/generate-abi.mjs', '--check'], { cwd: new URL('../..', import.meta.url) });
  });

  it('has list values that are their positions, and unique kebab-case names', () => {
    const lists = Object.entries(abi).filter((entry): entry is [string, abi.ListEntry[]] => Array.isArray(entry[1]));
    expect(lists.length).toBeGreaterThanOrEqual(11);
    for (const [, list] of lists) {
      list.forEach((entry, index) => expect(entry.value).toBe(index));
      list.forEach((entry) => expect(entry.name).toMatch(/^[a-z0-9]+(-[a-z0-9]+)*$/));
      list.forEach((entry) => expect(entry.help).not.toBe(''));
      expect(new Set(list.map((entry) => entry.name)).size).toBe(list.length);
    }
    expect(abi.DROP_REASONS[abi.DropReason.NO_ENGINE]?.name).toBe('no-engine');
    expect(abi.SL_DROP_REASON_COUNT).toBe(abi.DROP_REASONS.length);
  });

  it('keeps related limits in step', () => {
    expect(abi.SL_XSKS_MAX).toBe(abi.SL_PORTS_MAX * abi.SL_QUEUES_MAX);
    expect(abi.SL_NAT_PORT_WORDS).toBe(abi.SL_NAT_SLOTS_MAX * abi.SL_NAT_PROTOCOLS * 1024);
    expect(abi.DROP_REASONS.length).toBeLessThanOrEqual(abi.SL_STEER_BASE);
    expect(abi.SL_STEER_BASE + abi.STEER_COUNTERS.length).toBeLessThanOrEqual(abi.SL_STEER_KEYS);
  });

  it('has structs without holes', () => {
    for (const struct of Object.values(abi.STRUCTS)) {
      let end = 0;
      for (const field of Object.values(struct.fields)) {
        expect(field.offset).toBe(end);
        end = field.offset + field.size;
      }
      expect(end).toBe(struct.size);
    }
  });

  it('writes a rule little-endian at the offsets of the header', () => {
    const view = viewOf(abi.RULE_BYTES);
    abi.writeRule(view, 0, {
      fromZones: 0x1_0000_0002n, toZones: 0xffff_ffff_ffff_ffffn, id: 0xdeadbeef, action: abi.RuleAction.REJECT, log: abi.SL_LOG_START | abi.SL_LOG_END,
      flags: abi.SL_RULE_NO_OFFLOAD, sources: { first: 1, count: 2 }, destinations: { first: 3, count: 4 }, services: { first: 5, count: 6 }, sessionsMax: 7,
    });
    expect([...new Uint8Array(view.buffer, 0, 8)]).toEqual([2, 0, 0, 0, 1, 0, 0, 0]);
    expect(view.getUint32(abi.STRUCTS.sl_rule.fields.id.offset, true)).toBe(0xdeadbeef);
    expect(abi.readRule(view, 0).services).toEqual({ first: 5, count: 6 });
  });

  it('reads a flow record back, at an offset, without touching its neighbours', () => {
    const record: abi.FlowRecord = {
      sessionId: 1n << 63n, startNs: 5n, lastNs: 6n, packets: [7n, 8n], bytes: [9n, 10n], src: address(1), dst: address(2), natSrc: address(3), natDst: address(4),
      srcPort: 65535, dstPort: 443, natSrcPort: 1024, natDstPort: 8443, ruleId: 11, natSourceId: 12, natDestinationId: 13, fromInterface: 14, toInterface: 0xffffffff,
      expiresS: 15, fromZone: 16, toZone: 17, protocol: 6, state: abi.SessionState.ESTABLISHED, event: abi.FlowEvent.END, endReason: abi.EndReason.TCP_FIN, tcpFlags: Uint8Array.of(0x1b, 0x13),
    };
    const view = viewOf(abi.FLOW_RECORD_BYTES + 16);
    new Uint8Array(view.buffer).fill(0xaa);
    abi.writeFlowRecord(view, 8, record);
    expect(abi.readFlowRecord(view, 8)).toEqual(record);
    expect(new Uint8Array(view.buffer, 0, 8).every((byte) => byte === 0xaa)).toBe(true);
    expect(new Uint8Array(view.buffer, 8 + abi.FLOW_RECORD_BYTES).every((byte) => byte === 0xaa)).toBe(true);
  });

  it('zeroes reserved fields and nests structs', () => {
    const view = viewOf(abi.ROUTE_BYTES);
    new Uint8Array(view.buffer).fill(0xff);
    const route: abi.Route = { to: { address: address(0), length: 120 }, nexthops: { first: 1, count: 2 } };
    abi.writeRoute(view, 0, route);
    expect(abi.readRoute(view, 0)).toEqual(route);
    expect([...new Uint8Array(view.buffer, abi.STRUCTS.sl_prefix.fields.reserved.offset, 7)]).toEqual(Array(7).fill(0));
  });

  it.each([
    ['a port past 65535', () => abi.writeService(viewOf(abi.SERVICE_BYTES), 0, { protocol: 6, srcLo: 0, srcHi: 65536, dstLo: 0, dstHi: 1 }), 'sl_service.src_hi'],
    ['a fraction', () => abi.writeSpan(viewOf(abi.SPAN_BYTES), 0, { first: 0.5, count: 0 }), 'sl_span.first'],
    ['a negative u64', () => abi.writeRuleHits(viewOf(abi.RULE_HITS_BYTES), 0, { ruleId: 0, sessions: -1n }), 'sl_rule_hits.sessions'],
    ['an address of 4 bytes', () => abi.writePrefix(viewOf(abi.PREFIX_BYTES), 0, { address: new Uint8Array(4), length: 32 }), 'sl_prefix.address'],
  ])('refuses %s and names the field', (_, write, field) => {
    expect(write).toThrow(field);
    expect(write).toThrow(RangeError);
  });
});
