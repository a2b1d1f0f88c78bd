package site

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// resolveWithin is how long the names of the boxes may take to resolve at the start.
const resolveWithin = 5 * time.Second

// Self returns which of the boxes this one is: the one whose host is the name of the
// machine, or one of its addresses. The error is for operators.
func Self(ctx context.Context, boxes []*url.URL) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	machine, err := os.Hostname()
	if err != nil {
		machine = ""
	}
	own, err := ownAddresses()
	if err != nil {
		return 0, err
	}
	var found []int
	for i, b := range boxes {
		if isMachine(ctx, b.Hostname(), machine, own) {
			found = append(found, i)
		}
	}
	switch len(found) {
	case 0:
		return 0, fmt.Errorf("no entry is this machine's name or address; set HUBCAP_SITE_SELF to the one that is this box")
	case 1:
		return found[0], nil
	default:
		return 0, fmt.Errorf("%s and %s are both this machine; set HUBCAP_SITE_SELF to the one that is this box", boxes[found[0]], boxes[found[1]])
	}
}

func isMachine(ctx context.Context, host, machine string, own map[netip.Addr]bool) bool {
	label, _, _ := strings.Cut(host, ".")
	short, _, _ := strings.Cut(machine, ".")
	if _, err := netip.ParseAddr(host); err != nil && machine != "" && (strings.EqualFold(host, machine) || strings.EqualFold(label, short)) {
		return true
	}
	addresses, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host) // a box that is not known yet is another one
	for _, a := range addresses {
		if own[a.Unmap()] {
			return true
		}
	}
	return false
}

func ownAddresses() (map[netip.Addr]bool, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	own := make(map[netip.Addr]bool)
	for _, one := range all {
		if p, err := netip.ParsePrefix(one.String()); err == nil {
			own[p.Addr().Unmap()] = true
		}
	}
	return own, nil
}
