package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// manyDroppers is one layer of 64 MiB that nobody holds, asked for by 64 clients at
// once that take next to no processor time, beside one that fetches it directly.
func manyDroppers(b *bench) ([]row, error) {
	const size = 64 * mib
	rows := collected(row{what: "64 clients that drop bodies, one cold 64 MiB layer, 40 MB/s a connection, 125 MB/s in all (direct: one client)", unit: "s", to: directName, must: "≤ 0.65"})
	b.upstream(near, 40e6, line)
	for range b.reps {
		err := b.each(func(c *contender) error {
			_, layers := b.content(repository, size)
			began := time.Now()
			if err := together(atOnce(c), func(int) error { return c.dropLayer(layers[0], size) }); err != nil {
				return err
			}
			rows[0].add(c, time.Since(began).Seconds())
			return nil
		}, hubcapName, nginxName, directName)
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// dropLayer pulls a layer of a known size and does not look at it.
func (c *contender) dropLayer(d digest.Digest, size int64) error {
	n, err := c.drop(repository + "/blobs/" + d.String())
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes of %d", n, size)
	}
	return err
}

// drop asks for what is below /v2/, and returns the length of the body.
func (c *contender) drop(path string) (int64, error) {
	if c.name != directName {
		r, err := c.dialer("/v2/"+path, smallBuffer)()
		if err != nil {
			return 0, err
		}
		defer r.conn.Close()
		return r.drop()
	}
	// The registry wants a token, and sends its client elsewhere.
	p := newPuller(c.url)
	defer p.close()
	resp, err := p.get(path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return io.Copy(io.Discard, resp.Body)
}

// drop sends the request, reads the head of the answer, and has the system drop the
// body. It returns the body's length.
func (c *raw) drop() (int64, error) {
	if _, err := c.conn.Write(c.line); err != nil {
		return 0, err
	}
	head := textproto.NewReader(c.in)
	status, err := head.ReadLine()
	if err != nil {
		return 0, err
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200 ") {
		return 0, errors.New(status)
	}
	fields, err := head.ReadMIMEHeader()
	if err != nil {
		return 0, err
	}
	if c.headers != nil {
		c.headers()
	}
	length, err := strconv.ParseInt(fields.Get("Content-Length"), 10, 64)
	if err != nil {
		return 0, err
	}
	return length, dropBytes(c.conn.(*net.TCPConn), length-int64(c.in.Buffered()))
}

// dropped is where the system would write what it is told to drop. It writes nothing.
var dropped [mib]byte

// dropBytes has the system drop the next n bytes of a connection.
func dropBytes(c *net.TCPConn, n int64) error {
	system, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = system.Read(func(fd uintptr) (done bool) {
		for n > 0 && failed == nil {
			got, _, err := unix.Recvfrom(int(fd), dropped[:min(n, mib)], unix.MSG_TRUNC)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false // it is called again when there is more
			case errors.Is(err, unix.EINTR):
			case err != nil:
				failed = err
			case got == 0:
				failed = io.ErrUnexpectedEOF
			default:
				n -= int64(got)
			}
		}
		return true
	})
	return errors.Join(err, failed)
}
