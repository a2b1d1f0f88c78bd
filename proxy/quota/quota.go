// Package quota says how many questions one client has registries asked in vain.
package quota
