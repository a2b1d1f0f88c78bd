package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"hubcap/proxy/upstream/credentials"
	"hubcap/proxy/upstream/network"
)

// Duration is Go's notation, and d for days: 90s, 5m, 7d, 1d12h.
type Duration time.Duration

var errDuration = errors.New("want a duration above zero, such as 30s, 5m, 12h or 7d")

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	var days float64
	if number, rest, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseFloat(number, 64)
		if err != nil || !(n >= 0 && n <= 36_500) {
			return errDuration
		}
		days, s = n, rest
	}
	total := time.Duration(days * float64(24*time.Hour))
	if s != "" {
		rest, err := time.ParseDuration(s)
		if err != nil || rest < 0 {
			return errDuration
		}
		total += rest
	}
	if total <= 0 {
		return errDuration
	}
	*d = Duration(total)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText has encoders write it as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// units are the suffixes of sizes: of 1024, with or without B, and of 1000.
var units = []struct {
	suffix string
	bytes  float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"B", 1}, {"", 1},
}

// parseSize reads bytes: 50GiB, 50Gi, 500GB, 1073741824.
func parseSize(s string) (int64, error) {
	for _, unit := range units {
		number, ok := strings.CutSuffix(s, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if bytes := n * unit.bytes; err == nil && bytes >= 0 && bytes < math.MaxInt64/2 {
			return int64(bytes), nil
		}
		break
	}
	return 0, errors.New("want a size such as 50GiB, 500GB or a number of bytes")
}

// Bytes is a size above zero: 50GiB, 500GB, 1073741824.
type Bytes int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	n, err := parseSize(strings.TrimSpace(string(text)))
	if err == nil && n == 0 {
		err = errors.New("want a size above zero")
	}
	*b = Bytes(n)
	return err
}

// MarshalText has encoders write it in bytes.
func (b Bytes) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(b), 10), nil }

// Bandwidth is a number of bytes a second; 0 where none is set.
type Bandwidth int64

// minBandwidth is the least that is of use: what one slow modem has.
const minBandwidth = 64 << 10

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bandwidth) UnmarshalText(text []byte) error {
	n, err := parseSize(strings.TrimSpace(string(text)))
	if err != nil || n < minBandwidth {
		return errors.New("want bytes a second from 64KiB up, such as 20MB")
	}
	*b = Bandwidth(n)
	return nil
}

// Rate is a number of bytes a second.
type Rate int64

// The bounds of a Rate: what takes the better part of a day for a MiB, and what
// no network has.
const (
	minRate = 16
	maxRate = 1 << 40
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rate) UnmarshalText(text []byte) error {
	n, err := parseSize(strings.TrimSpace(string(text)))
	if err != nil || n < minRate || n > maxRate {
		return errors.New("want bytes a second from 16B up, such as 8KiB")
	}
	*r = Rate(n)
	return nil
}

// Share is a number of bytes, or a share of something in per cent.
type Share struct {
	text    string
	bytes   int64
	share   float64 // of the whole, where isShare
	isShare bool
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Share) UnmarshalText(text []byte) error {
	t := strings.TrimSpace(string(text))
	if number, ok := strings.CutSuffix(t, "%"); ok {
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(n >= 0 && n <= 100) {
			return errors.New("want a share from 0% to 100%, or a size such as 50GiB")
		}
		*s = Share{text: t, share: n / 100, isShare: true}
		return nil
	}
	bytes, err := parseSize(t)
	if err != nil {
		return errors.New("want a size such as 50GiB, 500GB or a number of bytes, or a share such as 60%")
	}
	if bytes == 0 {
		return errors.New("want more than nothing: a size such as 50GiB, or a share such as 60%")
	}
	*s = Share{text: t, bytes: bytes}
	return nil
}

func (s Share) String() string { return s.text }
func (s Share) set() bool      { return s.text != "" }

// of settles a share of whole bytes.
func (s Share) of(whole int64) int64 {
	if s.isShare {
		return int64(s.share * float64(whole))
	}
	return s.bytes
}

// Floor is one size or share, or the larger of several: max(5%,2GiB).
type Floor struct {
	text  string
	terms []Share
}

var errFloor = errors.New("want a size, a share, or max(a,b), such as max(5%,2GiB)")

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Floor) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	terms := []string{s}
	if inner, ok := strings.CutPrefix(s, "max("); ok {
		if inner, ok = strings.CutSuffix(inner, ")"); !ok {
			return errFloor
		}
		terms = strings.Split(inner, ",")
	}
	*f = Floor{text: s}
	for _, term := range terms {
		var one Share
		if term = strings.TrimSpace(term); term == "0" {
			continue
		}
		if one.UnmarshalText([]byte(term)) != nil {
			return errFloor
		}
		f.terms = append(f.terms, one)
	}
	return nil
}

func (f Floor) String() string { return f.text }

func (f Floor) of(whole int64) int64 {
	var most int64
	for _, term := range f.terms {
		most = max(most, term.of(whole))
	}
	return most
}

// list parses a list with commas between its elements, and blanks around them.
func list[T any](text []byte, parse func(string) (T, error)) (all []T, err error) {
	for one := range strings.SplitSeq(string(text), ",") {
		value, err := parse(strings.TrimSpace(one))
		if err != nil {
			return nil, err
		}
		all = append(all, value)
	}
	return all, nil
}

// Prefixes are ranges of addresses; a single address is a range of one.
type Prefixes []netip.Prefix

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Prefixes) UnmarshalText(text []byte) (err error) {
	*p, err = list(text, parsePrefix)
	return err
}

func parsePrefix(s string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(s); addrErr == nil {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return prefix, fmt.Errorf("%q is no range of addresses; want such as 10.0.0.0/8,192.168.1.7", s)
	}
	if at := prefix.Addr(); at.Is4In6() && prefix.Bits() >= 96 { // addresses are compared as IPv4
		prefix = netip.PrefixFrom(at.Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

func (p Prefixes) String() string {
	all := make([]string, len(p))
	for i, one := range p {
		all[i] = one.String()
	}
	return strings.Join(all, ",")
}

// CAFile is a file of PEM certificates, read.
type CAFile struct{ *network.CAFile }

// String is the file's name, or nothing.
func (f CAFile) String() string {
	if f.CAFile == nil {
		return ""
	}
	return f.Path()
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *CAFile) UnmarshalText(text []byte) error {
	file, err := network.ReadCAFile(string(text))
	if err != nil {
		return fmt.Errorf("want a file of PEM certificates; %w", err)
	}
	f.CAFile = file
	return nil
}

// Secret is a value that is never printed.
type Secret = credentials.Secret

// Switch is true or false.
type Switch bool

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Switch) UnmarshalText(text []byte) error {
	var value string
	err := oneOf(&value, text, "true", "false")
	*s = value == "true"
	return err
}

// oneOf sets a value to a text that must be one of the allowed.
func oneOf[T ~string](value *T, text []byte, allowed ...T) error {
	if slices.Contains(allowed, T(text)) {
		*value = T(text)
		return nil
	}
	want := "want "
	for i, one := range allowed {
		switch i {
		case 0:
		case len(allowed) - 1:
			want += " or "
		default:
			want += ", "
		}
		want += string(one)
	}
	return errors.New(want)
}

// Names are host names.
type Names []string

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Names) UnmarshalText(text []byte) (err error) {
	*n, err = list(text, func(one string) (string, error) {
		if one == "" || strings.ContainsAny(one, "/:@ ") {
			return "", errors.New("want host names without a port, separated by commas")
		}
		return one, nil
	})
	return err
}
