// `sluice capture`: packets as they pass, as lines, JSON, or pcapng for Wireshark. Who: src/cli/program.ts. Ends at --count, at --seconds, at
// Ctrl-C, or when who reads its output goes; then says how much it saw and what was lost.
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { createWriteStream } from 'node:fs';
import type { Writable } from 'node:stream';
import type { Command } from 'commander';
import { addCommon, choiceOption, clientOf, wholeNumber, type CommonOptions } from '../options.js';
import { CliError, ExitCode, formatBytes, formatCount } from '../output.js';
import { packetLine, packetView } from '../packet-line.js';
import { PcapngReader, type ReadBlock } from '../pcapng-reader.js';

const COUNT_MAX = 1_000_000;
const SECONDS_MAX = 3600;
const SECONDS_DEFAULT = 60;
const STREAM_BYTES_MAX = 1024 * 1024 * 1024;
const SNAP_BYTES_DEFAULT = 256;
const PROGRESS_MS = 1000;
const FILE_MODE = 0o600; // what passes may be secret

interface CaptureOptions extends CommonOptions {
  interface?: string; protocol?: string; port?: number; source?: string; destination?: string; direction?: string; oneWay?: boolean; dropped?: boolean; passed?: boolean;
  write?: string; count: number; seconds: number; snapLength: number;
}

export function addCaptureCommand(program: Command): void {
  const command = program.command('capture').description('packets as they pass, received and sent, with why they were dropped. Meanwhile no flow is offloaded: throughput is lower');
  addCommon(command)
    .option('--interface <NAME>', 'only this interface')
    .option('--protocol <NAME>', 'tcp, udp, icmp, icmpv6 or a number')
    .option('--port <N>', 'of either side', wholeNumber(0, 65535))
    .option('--source <PREFIX>', 'source address or prefix, as it stands in the packet')
    .option('--destination <PREFIX>', 'destination address or prefix, as it stands in the packet')
    .option('--one-way', 'not the answers of what --source and --destination match')
    .addOption(choiceOption('--direction <DIRECTION>', 'only as received, or only as sent', ['in', 'out']))
    .option('--dropped', 'only received packets that were dropped')
    .option('--passed', 'only packets that were not dropped')
    .option('--write <FILE>', 'write pcapng to this file, or with - to standard output: `sluice capture --write - | wireshark -k -i -`')
    .option('--count <N>', 'end after so many packets', wholeNumber(1, COUNT_MAX), COUNT_MAX)
    .option('--seconds <N>', 'end after so many seconds', wholeNumber(1, SECONDS_MAX), SECONDS_DEFAULT)
    .option('--snap-length <N>', 'bytes of each packet', wholeNumber(14, 9216), SNAP_BYTES_DEFAULT)
    .action((options: CaptureOptions) => captureTo(options));
}

async function captureTo(options: CaptureOptions): Promise<void> {
  const { write: file, json, count, seconds } = options;
  if (options.dropped && options.passed) throw new CliError('--dropped and --passed exclude each other', 'leave both out to see all', ExitCode.USAGE);
  if (file !== undefined && json) throw new CliError('--write writes pcapng, not JSON', 'leave out one of --write and --json', ExitCode.USAGE);
  if (file === '-' && process.stdout.isTTY) throw new CliError('pcapng is nothing for a terminal', 'pipe it: sluice capture --write - | wireshark -k -i -', ExitCode.USAGE);
  const stream = await clientOf(options).stream('/api/v1/capture', {
    interface: options.interface, protocol: options.protocol, port: options.port, source: options.source, destination: options.destination, direction: options.direction,
    oneWay: options.oneWay ? 'true' : undefined, dropped: options.dropped ? 'true' : options.passed ? 'false' : undefined,
    snapLength: options.snapLength, packets: count, bytes: STREAM_BYTES_MAX, seconds,
  });
  const out = file === undefined || file === '-' ? process.stdout : await openFile(file, stream);
  process.stderr.write(`Capturing for ${seconds} s at most, or until Ctrl-C. Meanwhile no flow is offloaded: throughput is lower.\n`);
  const summary = await copy(stream, out, file !== undefined, file !== undefined && file !== '-', options);
  if (out !== process.stdout) await new Promise<void>((resolve, reject) => out.once('error', reject).end(() => resolve()));
  process.stderr.write(`${formatCount(summary.packets)} packets captured${file === undefined ? '' : `, ${formatBytes(summary.bytes)} written${file === '-' ? '' : ` to ${file}`}`}, ${formatCount(summary.lost)} lost.\n`);
  if (summary.failure !== undefined) throw new CliError(`the capture ended early: ${summary.failure}`, 'what was captured until then is whole; start it again');
}

async function openFile(file: string, stream: IncomingMessage): Promise<Writable> {
  const out = createWriteStream(file, { mode: FILE_MODE });
  try {
    await once(out, 'open');
    return out;
  } catch (error) {
    stream.destroy();
    throw new CliError(`${file} cannot be written: ${(error as Error).message}`);
  }
}

interface Summary { packets: number; bytes: number; lost: number; failure?: string }

async function copy(stream: IncomingMessage, out: Writable, isRaw: boolean, showsProgress: boolean, { json }: CaptureOptions): Promise<Summary> {
  const reader = new PcapngReader();
  const lost = new Map<string, number>();
  const summary: Summary = { packets: 0, bytes: 0, lost: 0 };
  let isAsked = false;
  process.once('SIGINT', () => {
    isAsked = true;
    stream.destroy();
  });
  const progress = showsProgress && process.stderr.isTTY
    ? setInterval(() => process.stderr.write(`\r${formatCount(summary.packets)} packets, ${formatBytes(summary.bytes)}, ${formatCount(summary.lost)} lost `), PROGRESS_MS) : undefined;
  const note = (block: ReadBlock): string | Buffer | undefined => {
    if (block.kind === 'packet') summary.packets += 1;
    if (block.kind === 'statistics') {
      lost.set(block.interface, block.lost);
      summary.lost = [...lost.values()].reduce((sum, one) => sum + one, 0);
      if (block.comment !== null) summary.failure = block.comment;
    }
    if (isRaw) return block.raw;
    if (block.kind !== 'packet') return undefined;
    return `${json ? JSON.stringify(packetView(block)) : packetLine(block)}\n`;
  };
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      for (const block of reader.push(chunk)) {
        const piece = note(block);
        if (piece === undefined) continue;
        summary.bytes += piece.length;
        // Waiting here holds the other side back: it counts what it leaves out.
        if (!out.write(piece)) await once(out, 'drain');
      }
    }
    if (!stream.complete && !isAsked) summary.failure ??= 'control went away';
  } catch (error) {
    if (!isAsked) {
      if (stream.errored === null || stream.errored === undefined) throw error; // ours: the output
      summary.failure ??= 'control went away';
    }
  } finally {
    clearInterval(progress);
    if (progress) process.stderr.write('\n');
    stream.destroy();
  }
  return summary;
}
