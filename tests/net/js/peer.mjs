// A peer of js-libp2p, for test_js_interop.py: `node peer.mjs BYTES [ADDRESS]`.
//
// It opens a stream to ADDRESS, or listens and prints its address. On each stream it sends so many random
// bytes and closes its side, while it reads until the other side is closed; then it prints the SHA-256 of
// either direction. Every line on stdout is a JSON object. It ends with its stdin: closing a connection
// earlier can take back what the other side has not read yet.

import { createHash, randomBytes } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const PROTOCOL = '/p2pnode/exchange/1'
const PIECE = 1024 * 1024

const [bytes, address] = process.argv.slice(2)

function print (line) {
  console.log(JSON.stringify(line))
}

async function exchange (stream) {
  const [sent, received] = await Promise.all([send(stream), receive(stream)])
  print({ sent, received })
}

async function send (stream) {
  const hash = createHash('sha256')
  for (let left = Number(bytes); left > 0; left -= PIECE) {
    const piece = randomBytes(Math.min(left, PIECE))
    hash.update(piece)
    if (!stream.send(piece)) {
      await stream.onDrain()
    }
  }
  await stream.close()
  return hash.digest('hex')
}

async function receive (stream) {
  const hash = createHash('sha256')
  for await (const data of stream) {
    hash.update(data.subarray())
  }
  return hash.digest('hex')
}

const node = await createLibp2p({
  addresses: { listen: address ? [] : ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()]
})
if (address) {
  await exchange(await node.dialProtocol(multiaddr(address), PROTOCOL))
} else {
  await node.handle(PROTOCOL, exchange)
  print({ address: String(node.getMultiaddrs()[0]) })
}
process.stdin.on('end', () => process.exit()).resume()
