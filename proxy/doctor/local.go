package doctor

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"hubcap/cache/blobs"
	"hubcap/proxy/advice"
	"hubcap/proxy/server"
)

// traits are what the kinds of file systems mean for a data directory, and what
// to do.
var traits = map[blobs.Trait]struct{ what, do string }{
	blobs.Network: {"a network or user-space file system: slow, and away when its server is", "put HUBCAP_DATA_DIR on a local disk"},
	blobs.Memory:  {"it takes memory, and is empty after a reboot", "put HUBCAP_DATA_DIR on a disk"},
	blobs.Layer:   {"a container's own layer, which is gone with the container", "mount a volume at HUBCAP_DATA_DIR"},
}

// disk checks the size and kind of the file system against the cache's size.
func (d *doctor) disk() {
	of, err := blobs.FileSystemOf(d.config.DataDir)
	if err != nil {
		d.add("disk", Failed, fmt.Sprintf("the file system of %s cannot be read: %v", d.config.DataDir, err), "check the path, and run as root")
		return
	}
	budget := server.CacheSize(d.config, of.Total, of.Free)
	floor, _ := d.config.MinFreeBytes(of.Total)
	used := int64(0)
	if d.box != nil {
		budget, used = int64(d.box.sum("hubcap_cache_budget_bytes")), int64(d.box.sum("hubcap_cache_bytes"))
	}
	what := fmt.Sprintf("%s, %s of %s free; the cache may take %s, and %s are kept free", absolute(d.config.DataDir), gib(of.Free), gib(of.Total), gib(budget), gib(floor))
	if d.box != nil {
		what += "; it takes " + gib(used)
	}
	switch room := used + max(of.Free-floor, 0); {
	case of.ReadOnly:
		d.add("disk", Failed, what+"; it is mounted read-only", "mount it for writing; only what is cached can be served")
	case of.NoInodes:
		d.add("disk", Failed, what+"; no more files can be created", "free inodes (df -i)")
	case room < minUseful:
		d.add("disk", Failed, what+"; nothing can be stored", "free space, or choose another HUBCAP_DATA_DIR")
	case room < budget && d.box == nil && !of.Full && d.config.CacheSizeSet():
		d.add("disk", Warning, what+fmt.Sprintf("; there is room for %s of it", gib(room)), "free space, or reduce HUBCAP_CACHE_SIZE")
	default:
		d.add("disk", OK, what, "")
	}
	name := of.Name
	if name == "" {
		name = "of a kind that hubcap does not know"
	}
	if t, notable := traits[of.Trait]; notable {
		d.add("file system", Warning, name+": "+t.what, t.do)
	} else {
		d.add("file system", OK, name, "")
	}
}

// minUseful is the least room that a cache is of use with: config's least cache
// size.
const minUseful = 64 << 20

// directory checks whether hubcap may use the data directory.
func (d *doctor) directory() {
	if d.box != nil {
		return // it does
	}
	if err := server.CheckDir(d.config.DataDir); err != nil {
		d.add("directory", Failed, err.Error(), "hubcap does not start before that is mended")
		return
	}
	d.add("directory", OK, fmt.Sprintf("user %d may write to %s", os.Geteuid(), absolute(d.config.DataDir)), "")
}

// proxy checks the outgoing proxies that the registries are asked through.
func (d *doctor) proxy(ctx context.Context) {
	through := make(map[string][]string) // registries by the proxy's address, without its password
	hosts := make(map[string]string)
	for _, e := range d.config.Upstreams {
		at, err := d.o.Proxy(&http.Request{URL: e.URL})
		if err != nil {
			d.add("proxy", Failed, "the outgoing proxy cannot be used: "+withoutURL(err).Error(), "correct HTTPS_PROXY")
			return
		}
		if at != nil {
			shown := at.Redacted()
			through[shown] = append(through[shown], e.Host)
			hosts[shown] = hostPort(at)
		}
	}
	if len(through) == 0 {
		d.add("proxy", OK, "none (HTTPS_PROXY is not set)", "")
	}
	for _, shown := range slices.Sorted(maps.Keys(through)) {
		what := fmt.Sprintf("%d of %d registries are asked through %s", len(through[shown]), len(d.config.Upstreams), shown)
		conn, err := (&net.Dialer{Timeout: time.Duration(d.config.ConnectTimeout)}).DialContext(ctx, "tcp", hosts[shown])
		if err != nil {
			d.add("proxy", Failed, what+", which does not answer: "+err.Error(), "correct HTTPS_PROXY, or NO_PROXY for what needs none")
			continue
		}
		_ = conn.Close()
		d.add("proxy", OK, what, "")
	}
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// withoutURL returns an error without the address that it quotes, which may hold
// a password.
func withoutURL(err error) error {
	var inURL *url.Error
	if errors.As(err, &inURL) {
		return inURL.Err
	}
	return err
}

// authorities checks the files of additional authorities.
func (d *doctor) authorities() {
	files := make(map[string]bool)
	for _, e := range d.config.Upstreams {
		for _, f := range e.CAFiles {
			files[f.Path()] = true
		}
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		content, err := os.ReadFile(file)
		if err != nil {
			d.add("authorities", Failed, err.Error(), "make the file readable")
			continue
		}
		names, expired := certificates(content, d.o.Now())
		what := fmt.Sprintf("%s: %s", file, strings.Join(names, ", "))
		if len(expired) > 0 {
			d.add("authorities", Warning, what+"; expired: "+strings.Join(expired, ", "), "replace the expired certificates")
			continue
		}
		d.add("authorities", OK, what, "")
	}
}

// certificates returns the names of the certificates in PEM, and those of the
// expired ones.
func certificates(content []byte, now time.Time) (names, expired []string) {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		name := fmt.Sprintf("%q", c.Subject.CommonName)
		names = append(names, name)
		if now.After(c.NotAfter) {
			expired = append(expired, name)
		}
	}
	return names, expired
}

// ports checks whether each port is free, or taken by a running hubcap.
func (d *doctor) ports(ctx context.Context) {
	for _, l := range server.Listeners(d.config) {
		what := fmt.Sprintf("the %s port %s", l.Name, l.Address)
		switch {
		case l.Err == nil && d.box != nil:
			d.add("port", Failed, what+" is free, although hubcap runs", "look whether hubcap was started with other settings than these")
		case l.Err == nil:
			d.add("port", OK, what+" is free", "")
		case l.Taken && isHubcap(ctx, l):
			d.add("port", OK, what+" is hubcap's", "")
		case errors.Is(l.Err, syscall.EADDRNOTAVAIL):
			d.add("port", Warning, what+": no interface has the address; hubcap waits until one has it", "bring the interface up, or choose another address")
		case l.Taken && d.box != nil:
			d.add("port", Warning, what+" is taken, and /livez is not answered there", "look at it again when hubcap has less to do")
		default:
			d.add("port", Failed, l.Err.Error(), portAdvice(l.Err))
		}
	}
}

func portAdvice(err error) string {
	var file *fs.PathError
	if errors.As(err, &file) {
		return "make " + file.Path + " readable for hubcap's user"
	}
	if errors.Is(err, syscall.EACCES) {
		return "choose a port from 1024 up, or give hubcap the capability CAP_NET_BIND_SERVICE"
	}
	return "hubcap does not start before that is mended"
}

// addresses lists where clients on other hosts can reach the mirror port.
func (d *doctor) addresses() {
	host, port, err := net.SplitHostPort(string(d.config.Listen))
	if err != nil {
		return // config has checked it
	}
	scheme, ip := d.scheme(), net.ParseIP(host)
	switch {
	case host == "localhost" || ip != nil && ip.IsLoopback():
		d.add("addresses", Warning, scheme+net.JoinHostPort(host, port)+": only this machine reaches it", "set HUBCAP_LISTEN=:"+port)
		return
	case host != "" && (ip == nil || !ip.IsUnspecified()):
		d.add("addresses", OK, scheme+net.JoinHostPort(host, port), "")
		return
	}
	var all []string
	for _, at := range append([]string{d.report.Box}, interfaces()...) {
		if at != "" {
			all = append(all, scheme+net.JoinHostPort(at, port))
		}
	}
	d.add("addresses", OK, "clients may reach it as "+strings.Join(all, ", "), "")
}

// scheme is that of the mirror port.
func (d *doctor) scheme() string {
	if d.config.TLSCertFile != "" {
		return "https://"
	}
	return "http://"
}

// interfaces returns the addresses of this machine that other hosts can use.
func interfaces() (all []string) {
	addrs, _ := net.InterfaceAddrs() // none are as good as unknown
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			all = append(all, n.IP.String())
		}
	}
	return all
}

func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}

func gib(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

// reachable returns host:port of this machine as a client would write it.
func (d *doctor) reachable() string {
	_, port, err := net.SplitHostPort(string(d.config.Listen))
	if err != nil || d.report.Box == "" {
		return "<this box>:" + port
	}
	return net.JoinHostPort(d.report.Box, port)
}

// noClient is what to do while no client has come: point one here, and the two
// mistakes that keep clients away without an error.
func (d *doctor) noClient() string {
	return "`hubcap setup CLIENT` prints a client's configuration, and " + d.scheme() + d.reachable() + "/setup shows it. " + advice.HubOnly(d.reachable()) + ". " + advice.ConfigPath()
}
