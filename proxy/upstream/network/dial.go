package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// attemptDelay is how long one address has to answer before the next one is tried
// too: the Connection Attempt Delay of RFC 8305, section 5.
const attemptDelay = 250 * time.Millisecond

// dial connects to the address of a name that answers first, of the allowed ones
// only: the resolved address is checked at the moment of connecting, so that a
// name cannot change in between. net.Dialer divides its time-out between the
// addresses of a family and tries one after the other, so that a few dead ones
// take all of it.
func (n *Network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, n.ConnectTimeout)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	addrs, err := n.lookup(ctx, "ip", host)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	d := net.Dialer{KeepAlive: 30 * time.Second}
	key := strings.ToLower(address)
	_, proxy := n.proxies.Load(key)
	if !proxy {
		d.Control = n.control(host)
	}
	last, _ := n.answered.Get(key)
	conn, at, err := race(ctx, inTurn(addrs, last), func(ctx context.Context, at netip.Addr) (net.Conn, error) {
		return d.DialContext(ctx, network, net.JoinHostPort(at.String(), port))
	})
	if err != nil {
		return nil, err
	}
	n.answered.Keep(key, at)
	if proxy {
		n.bound(ctx, conn)
	}
	return conn, nil
}

// control checks the address of a host before a connection is made.
func (n *Network) control(host string) func(_, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: %s is no address", ErrRefused, address)
		}
		return checkAddr(host, at.Addr(), n.PrivateCIDRs)
	}
}

// inTurn returns addresses in the order in which they are tried: the one that last
// answered, if it is among them, then the families alternately (RFC 8305, section
// 4), each in the resolver's order.
func inTurn(addrs []netip.Addr, last netip.Addr) []netip.Addr {
	var families [2][]netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		if first := addrs[0].Unmap(); a.Is4() == first.Is4() {
			families[0] = append(families[0], a)
		} else {
			families[1] = append(families[1], a)
		}
	}
	var all []netip.Addr
	for i := range addrs {
		for _, f := range families {
			if i < len(f) {
				all = append(all, f[i])
			}
		}
	}
	if i := slices.Index(all, last); i > 0 {
		all = slices.Insert(slices.Delete(all, i, i+1), 0, last)
	}
	return all
}

// race connects to one address after the other, without waiting longer than
// attemptDelay, and returns the first connection; others are closed. The error is
// that of the address that failed first.
func race(ctx context.Context, addrs []netip.Addr, connect func(context.Context, netip.Addr) (net.Conn, error)) (net.Conn, netip.Addr, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type attempt struct {
		conn net.Conn
		at   netip.Addr
		err  error
	}
	ended := make(chan attempt, len(addrs))
	first := error(&net.OpError{Op: "dial", Err: errors.New("the name has no address")})
	for begun, failed := 0, 0; failed < len(addrs); {
		var slow <-chan time.Time
		if begun < len(addrs) {
			go func(at netip.Addr) {
				conn, err := connect(ctx, at)
				ended <- attempt{conn, at, err}
			}(addrs[begun])
			begun++
			slow = time.After(attemptDelay)
		}
		select {
		case <-slow:
		case a := <-ended:
			if a.err == nil {
				go func() {
					for range begun - failed - 1 {
						if late := <-ended; late.err == nil {
							_ = late.conn.Close()
						}
					}
				}()
				return a.conn, a.at, nil
			}
			if failed++; failed == 1 {
				first = a.err
			}
		}
	}
	return nil, netip.Addr{}, first
}

// proxyConnKey is the context key of a request's connection to an outgoing
// proxy, an *atomic.Pointer[net.Conn].
type proxyConnKey struct{}

// bound sets the time-out as the deadline for a proxy to answer CONNECT or to
// speak SOCKS: net/http waits a minute for CONNECT, and without end for SOCKS.
// tunnelled and send lift it.
func (n *Network) bound(ctx context.Context, conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(n.ConnectTimeout))
	if made, ok := ctx.Value(proxyConnKey{}).(*atomic.Pointer[net.Conn]); ok {
		made.Store(&conn)
	}
}

// tunnelled lifts the deadline when the proxy has opened the tunnel: what follows
// is the TLS handshake, which http.Transport bounds.
func tunnelled(ctx context.Context, _ *url.URL, _ *http.Request, _ *http.Response) error {
	if made, ok := ctx.Value(proxyConnKey{}).(*atomic.Pointer[net.Conn]); ok {
		if conn := made.Load(); conn != nil {
			return (*conn).SetDeadline(time.Time{})
		}
	}
	return nil
}

// through is the transport's choice of an outgoing proxy: the proxy's address
// becomes exempt, and the target is checked by name, because the proxy resolves
// it.
func (n *Network) through(req *http.Request) (*url.URL, error) {
	proxy, err := n.Proxy(req)
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		if _, exempt := n.proxies.Load(HostPort(req.URL)); exempt {
			return nil, fmt.Errorf("%w: %s is the outgoing proxy", ErrRefused, req.URL.Host)
		}
		return nil, nil //nolint:nilnil // as http.Transport wants it
	}
	if err := proxiedTarget(req.URL, n.PrivateCIDRs); err != nil {
		return nil, err
	}
	n.proxies.Store(HostPort(proxy), struct{}{})
	return proxy, nil
}
