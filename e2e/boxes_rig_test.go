package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// boxes is a site of several boxes, each in a network namespace of its own inside the site's, with a cable to the other boxes and their
// clients (lan) and one to the stand-in for Docker Hub (wan).
type boxes struct {
	*site
	all []*siteBox
}

// siteBox is one of them.
type siteBox struct {
	*process
	t       *testing.T
	site    *boxes
	number  int    // from 1
	address string // of its mirror port on the lan
	outside string // the same on the wan
	wan     string // its address there, as the stand-in sees it
	dir     string
}

// commonName has the address of every box.
const commonName = "boxes.site"

// network makes the cables of the boxes. $1 is how many there are.
const network = `set -e
for net in lan wan; do ip link add $net type bridge; ip link set $net up; done
ip addr add 10.73.0.1/24 dev lan
ip addr add 10.74.0.1/24 dev wan
for i in $(seq $1); do
	ip netns add box$i
	ip -n box$i link set lo up
	for net in lan:10.73.0:eth0 wan:10.74.0:eth1; do
		IFS=: read bridge prefix inside <<-end
			$net
		end
		ip link add $bridge$i type veth peer name $inside netns box$i
		ip link set $bridge$i master $bridge up
		ip -n box$i addr add $prefix.1$i/24 dev $inside
		ip -n box$i link set $inside up
	done
done`

// newBoxes starts a site of n boxes in front of a stand-in with the options, and settings for all of them.
func newBoxes(t *testing.T, n int, options fakehub.Options, settings ...string) *boxes {
	t.Helper()
	need(t, "ip", "mount", "seq")
	names := fakehub.DockerHub()
	hosts := "127.0.0.1 localhost\n10.74.0.1 " + strings.Join(append([]string{names.Token, names.CDN}, names.Registry...), " ") + "\n"
	for i := 1; i <= n; i++ {
		hosts += fmt.Sprintf("10.73.0.1%d box%d.site\n10.73.0.1%d %s\n", i, i, i, commonName)
	}
	ns := newNamespaceKnowing(t, hosts)
	if out, err := run(ns, exec.Command("sh", "-c", network, "sh", fmt.Sprint(n))); err != nil {
		testkit.Missing(t, "cables between namespaces are not permitted here (%v)\n%s", err, out)
	}
	options.TLS, options.Names, options.Addr, options.Listen = true, names, "10.74.0.1:443", ns.listen
	b := &boxes{site: &site{ns: ns, hub: fakehub.Start(t, options), caFile: filepath.Join(scratch(t), "ca.pem")}}
	if err := os.WriteFile(b.caFile, b.hub.CAPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the upstream was asked:\n%s", tail([]byte(describe(b.hub.Log()))))
		}
	})
	for i := 1; i <= n; i++ {
		box := &siteBox{t: t, site: b, number: i, dir: scratch(t)}
		box.address, box.outside, box.wan = fmt.Sprintf("10.73.0.1%d:5000", i), fmt.Sprintf("10.74.0.1%d:5000", i), fmt.Sprintf("10.74.0.1%d", i)
		b.all = append(b.all, box)
	}
	for _, box := range b.all {
		box.start(t, settings...)
	}
	return b
}

// list is HUBCAP_SITE.
func (b *boxes) list() string {
	var all []string
	for _, one := range b.all {
		all = append(all, fmt.Sprintf("http://box%d.site:5000", one.number))
	}
	return strings.Join(all, ",")
}

// start starts a box, which finds out itself which one it is, and waits until it is ready.
func (b *siteBox) start(t *testing.T, settings ...string) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", fmt.Sprintf("box%d", b.number), testkit.Hubcap(t, ".."))
	cmd.Env = environment(append([]string{
		"HUBCAP_LISTEN=:5000", "HUBCAP_ADMIN_LISTEN=127.0.0.1:5001", "HUBCAP_DATA_DIR=" + b.dir, "HUBCAP_CACHE_SIZE=4GiB", "HUBCAP_MIN_FREE=64MiB",
		"HUBCAP_UPSTREAM_0_HOST=" + dockerHub, "HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=10.74.0.0/24", "HUBCAP_UPSTREAM_0_CA_FILE=" + b.site.caFile,
		"HUBCAP_SITE=" + b.site.list(), "HUBCAP_TAG_TTL=10m",
	}, settings...)...)
	b.process = startDaemon(t, b.site.ns, fmt.Sprintf("box%d", b.number), cmd)
	client := b.site.ns.httpClient(t)
	b.waitReady(t, func() bool {
		resp, err := client.Get("http://" + b.address + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	first := b.process
	t.Cleanup(func() { first.signal(syscall.SIGCONT) }) // a stopped process ends only then
}

// cable pulls a box's cable to the other boxes, or plugs it in again.
func (b *siteBox) cable(state string) {
	b.t.Helper()
	mustRun(b.t, b.site.ns, exec.Command("ip", "link", "set", fmt.Sprintf("lan%d", b.number), state))
}

// reading is a client that reads a blob, or a manifest, and asks for no part of it again.
type reading struct {
	took, gap time.Duration // as a whole, and the longest without a byte
	err       error
}

// read reads what is at a path of a box, at address, and verifies it.
func (b *boxes) read(ctx context.Context, client *http.Client, address, path string, d digest.Digest) (r reading) {
	begun := time.Now()
	defer func() { r.took = time.Since(begun) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return reading{err: err}
	}
	resp, err := client.Do(req)
	if err != nil {
		return reading{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return reading{err: fmt.Errorf("%s at %s", resp.Status, address)}
	}
	sum, last, buf := digest.Canonical.Digester(), time.Now(), make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		r.gap = max(r.gap, time.Since(last))
		last = time.Now()
		_, _ = sum.Hash().Write(buf[:n])
		switch {
		case err == io.EOF && sum.Digest() != d:
			r.err = fmt.Errorf("%s in place of %s", sum.Digest(), d)
			return r
		case err == io.EOF:
			return r
		case err != nil:
			r.err = err
			return r
		}
	}
}

// askers are the boxes that have asked the stand-in's CDN for a blob, in the order of their first requests.
func (b *boxes) askers(d digest.Digest) (all []*siteBox) {
	seen := map[string]bool{}
	for _, q := range b.hub.Log() {
		host, _, _ := net.SplitHostPort(q.RemoteAddr)
		if q.Kind != fakehub.KindCDN || q.Reference != d.String() || seen[host] {
			continue
		}
		seen[host] = true
		for _, one := range b.all {
			if one.wan == host {
				all = append(all, one)
			}
		}
	}
	return all
}

// under waits until a part of a blob has crossed the link, and returns the box that fetches it.
func (b *boxes) under(t *testing.T, d digest.Digest, bytes int64) *siteBox {
	t.Helper()
	waitUntil(t, "a part has crossed", func() bool { return b.hub.BytesSent(d) >= bytes })
	return b.askers(d)[0]
}

// begin has a box fetch a blob for nobody that reads it to its end, and returns the box that asks the registry.
func (b *boxes) begin(t *testing.T, path string, d digest.Digest) (owner *siteBox) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	client := b.ns.httpClient(t)
	go b.read(ctx, client, b.all[0].address, path, d)
	return b.under(t, d, 1)
}

// others are the boxes but for one.
func (b *boxes) others(but *siteBox) (all []*siteBox) {
	for _, one := range b.all {
		if one != but {
			all = append(all, one)
		}
	}
	return all
}
