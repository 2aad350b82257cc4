r"""What equals what, kind by kind; for each kind also what only looks like it."""

import pytest

from pav_jax.core.types import Grade
from pav_jax.tasks import grading

# Each gold, and under it answers that are right (=) and wrong (!).
KINDS = {
    "very small and very large numbers": r"""
\frac{1}{2004!}
  = \frac{1}{2004 \cdot 2003!}
  ! -\frac{1}{2004!} & \frac{1}{2006!} & 0
6.63\times10^{-34}
  = 6.63 \cdot 10^{-34} & 663 \times 10^{-36}
  ! 1.6\times10^{-19}
1-\frac{1}{2010!}
  = \frac{2010!-1}{2010!}
  ! 1-\frac{1}{2011!} & 1
\sqrt2+\frac{1}{2010!}
  = \frac{1}{2010!}+\frac{2}{\sqrt2}
  ! \sqrt2+\frac{1}{2011!}
\frac{\pi}{2004!}
  = \frac{2\pi}{2 \cdot 2004!}
  ! -\frac{\pi}{2004!} & \frac{3.14}{2004!}
\sqrt{2}
  = \frac{2}{\sqrt{2}} & 2^{1/2}
  ! 1.41421356237309504880168872 & \sqrt2+10^{-40}
10^{100}+1
  = 1+10^{100}
  ! 10^{100}
2^{2000}
  = 4^{1000}
  ! \sqrt{2^{4000}+1}
x+\frac{1}{2004!}
  = \frac{1}{2004!}+x
  ! x-\frac{1}{2004!} & x
0.0833
  = .0833
  ! \frac{1}{12}
""",
    "what cancels": r"""
5
  ! \sin(\cosh(5000)-\sinh(5000)) & 5+e^{-10000} & 5+10^{-2000}
  ! 2004!\cdot(\cosh(9)-\sinh(9)-e^{-9})
\sqrt2
  = \sqrt2+\cosh(9)-\sinh(9)-e^{-9} & \sqrt{3+2\sqrt2}-1
  ! \sqrt2+e^{-10000} & \sqrt2+10^{-2000} & \sqrt2+\cosh(9)-\sinh(9)
1
  = \sqrt{3+2\sqrt2}-\sqrt2 & e^9(\cosh(9)-\sinh(9))
0
  = \sqrt{3+2\sqrt2}-1-\sqrt2 & \sin^2 x+\cos^2 x-1 & \ln 6-\ln 2-\ln 3
  ! e^{-5000} & \cosh(50)-\sinh(50)
x
  = x+\cosh(x)-\sinh(x)-e^{-x} & \ln(e^{x/2})\cdot 2
  ! x+\cosh(50x)-\sinh(50x) & \cosh(300)-\sinh(300)
2\cos\frac{\pi}{9}
  = (\frac{1+i\sqrt3}{2})^{1/3}+(\frac{1-i\sqrt3}{2})^{1/3}
  ! (\frac{1+i\sqrt3}{2})^{1/3}-(\frac{1-i\sqrt3}{2})^{1/3}
""",
    "white space": r"""
\frac{5}{4}
  = 1 1/4 & 1\frac14
  ! 11/4 & 1 \cdot 1/4
\frac{11}{4}
  = 2 3/4 & 2\ 3/4
  ! 1 1/4 & 1\frac{1}{4}
-\frac{3}{2}
  = -1 1/2 & -1\frac{1}{2}
  ! 1 1/2
12
  = 12.0
  ! 1 2 & 1\ 2 & 1~2
1234
  = 1{,}234 & 1\,234 & 1,\!234
  ! 1 234 & 12 34
2^{63}
  = 2^63
  ! 2^6 3
2^6 \cdot 3^5
  = 2^6 3^5 & 2^6\, 3^5
  ! 2^6 35
\frac{22}{3}
  = 4+10/3
  ! 4 10/3 & 4\frac{10}{3}
2516_8
  = 2516_{8} & (2516)_8 & {2516}_8
  ! 2516 & 2516_9 & 25 16_8 & 1358
""",
    "letters that are no units": r"""
2
  = 2\text{ m} & 2\ \mathrm{m}
  ! 2\mathrm{i} & 2i & 2\text{i} & 2x & 2\mathbf{a} & 2\mathrm{m}
\mathbf{a}+2\mathbf{b}
  = 2\vec{b}+\vec{a} & a+2b
  ! \mathbf{a}+2\mathbf{c} & \mathbf{a}+2
4-\mathrm{i}
  = 4-i
  ! 4+i & 4-\mathrm{j} & 4
\overline{CD}
  = CD & \text{CD}
  ! DC & C & CE
\overline{z}
  = \bar{z}
  ! z
IV
  = \text{IV}
  ! VI & V
3ab
  = 3ba & 3 a b
  ! 3 & 3a
""",
    "names and equations": r"""
5
  = x=5 & 5=x & x_1=5 & f(2)=5 & |AB|=5 & \angle A=5 & = 5 & \text{Area} = 5
  ! 2x=5 & x^2=5 & x+z=5 & |x|=5 & \frac{x}{y}=5 & \sin x=5 & 3=5
x=5
  = 5 & x = 10/2
  ! y=5 & x=-5 & 2x=5
\frac{1}{3}
  = x=\frac13\approx0.33 & \frac13\approx0.33
  ! x\approx0.33
(2,3)
  = (x,y)=(2,3) & (a, b) = (2, 3) & x=2, y=3 & x = 2 \text{ and } y = 3
  ! (x,y)=(3,2) & x=3, y=2 & 2x=3
(x,y)=(2,3)
  = (2,3) & x=2, y=3
  ! (3,2) & y=2, x=3
y=2x+3
  = 2x+3 & 2x-y+3=0 & -y=-2x-3 & y-3=2x
  ! y=2x-3 & x=2y+3 & 2x+y+3=0
5x-7y+11z+4=0
  = 7y-5x-11z=4
  ! 5x-7y+11z=0 & x+y-z+2=0
n=2,3,4
  = 2,3,4 & n=2 \text{ or } n=3 \text{ or } n=4
  ! n=1,2,3
7:32
  = S:T=7:32
  ! 32:7
f(2)<f(1)<f(4)
  = f(4)>f(1)>f(2)
  ! f(4)<f(1)<f(2) & f(2)<f(4)<f(1)
""",
    "words that are numbers": r"""
2000000
  = 2\text{ million} & 2 million & \$2\text{ million} & 2 million dollars
  ! 2 & 2\text{ billion}
5
  = 5.0
  ! 5\text{ million} & 5 hundred & 5 dozen & 5 \text{ or more} & \text{at most }5
  ! 5 \text{ tenths}
24
  = 2 dozen & 2\text{ dozen eggs}
  ! 2
""",
    "choices": r"""
C
  = \text{C} & \textbf{(C)} & (C) & (\text{C}) & \mathrm{(C)} & \textbf{C} & C.
  = {C}
  ! D & \text{D} & c & CC & 2C
\text{(C)}
  = C & \text{C} & \mathbf{C}
  ! \text{(D)} & \text{(C), (D)}
B, C
  = \text{B}, \text{C} & \text{B and C} & C, B
  ! B & B, D
""",
    "golds of MATH": r"""
7, -2, \text{ and } -5
  = 7,-2,-5 & -5, 7, -2 & \{7,-5,-2\}
  ! 7,2,-5 & 7,-2
111, \! 111, \! 111
  = 111,111,111 & 111111111 & 111{,}111{,}111
  ! 111, 111, 111 & 111,111
45^\circ, 135^\circ
  = 45^\circ,135^\circ & 45, 135 & 135^\circ \text{ and } 45^\circ
  ! 45^\circ & 45^\circ, 136^\circ
\text{1:03 PM}
  = 1:03\text{ PM} & 1:03 p.m. & 1:03
  ! 1:03 AM & 1:30 PM & 13
12:30
  = 12\!:\!30 & 12:30\text{ PM}
  ! 12:31 & 30:12
\text{east}
  = east & East & EAST
  ! west & \text{not east} & seat
\text{no solution}
  = no solution & No solution.
  ! one solution & 0
\text{No}
  = No & no
  ! \text{Yes} & on
""",
    "matrices": r"""
\begin{pmatrix}1\\2\end{pmatrix}
  = \left(\begin{array}{c}1\\2\end{array}\right) & \begin{bmatrix}1\\2\end{bmatrix}
  = \left[\begin{array}{c}1\\2\end{array}\right]
  = \begin{pmatrix}1\\2\\\end{pmatrix} & \frac12\begin{pmatrix}2\\4\end{pmatrix}
  ! \begin{pmatrix}2\\1\end{pmatrix} & \begin{pmatrix}1\end{pmatrix} & (1,2)
  ! \frac{1}{2}
""",
    "units": r"""
12
  = 12 inches & 12 ways & 12\text{ cm}^2 & \text{12 cm} & 12 cm^2 & 12 km/h & \$12
  = 12 square feet & 12\,\mathrm{cm} & 12 of the students & 12\%
  ! 13 inches & -12 cm & 12 + cm & 12 cm 5
10 weeks
  = 10 & 10weeks & 10\text{ weeks}
  ! 10 days & 70
28\%
  = 28 percent & 28 pct & 28
  ! 0.28 & \frac{28}{100}
90^\circ
  = 90 degrees & 90 & 90\text{ degrees}
  ! \frac{\pi}{2} & 90\text{ cm}
5\text{ cm}
  = 5\text{ centimeters} & 5 cm & 5
  ! 5\text{ m} & 5\text{ cm}^2 & 50
864 \mbox{ inches}^2
  = 864 square inches & 864\text{ in}^2 & 864
  ! 864 \text{ feet}^2 & 864 inches
\$18.90
  = 18.90 & 18.9 dollars
  ! 18.9 cents & 1890
\frac{270}7\text{ degrees}
  = \frac{270}{7}^\circ & 270/7
  ! 270/7 radians
""",
    "scales and words after units": r"""
20\text{ degrees Celsius}
  = 20 & 20 degrees Celsius & 20^\circ & 20^\circ C & 20\text{ degrees}
  ! 20\text{ degrees Fahrenheit} & 20^\circ F & 20^\circ\text{F} & 20\text{ cm}
20^\circ\text{F}
  = 20 degrees Fahrenheit & 20^\circ
  ! 20^\circ\text{C}
5\text{ cm of rope}
  = 5 & 5\text{ cm} & 5\text{ centimeters long}
  ! 5\text{ m} & 5\text{ m of rope}
""",
    "more units": r"""
5
  = 5 m/s & 5 km/h
  = 5th & 5\text{th} & 5^{\text{th}} & \$5 per hour & \$5/\text{hour} & £5 & 5 USD
  = 5\ \mathrm{km/h} & 5\text{ m/s}^2 & 5 times & 5 sq. units & 5 degrees Celsius
  ! 5\text{x} & 5 \text{i} & 5\mathrm{xy} & 5\mathbf{m} & 5\text{ squared}
  ! 5\text{ tens} & 5\text{ doubled} & 5\text{ times two} & 5\text{ halved}
  = 5\text{ times as many}
  ! 5m/s & 5 m & 5 x/y
  ! 5 mod 7 & 5 minus 1 & 5 below zero & 5' & 5_2 & a5 & 5 a & 5^1 0
25
  = 25^\circ C & 25^\circ\text{C} & 25^\circ \text{ F}
  ! 25^\circ x & 25 C
""",
    "numbers in words": r"""
12
  = 12 fifth graders & \text{twelve} & \text{one dozen} & 120 tenths
  ! 60 fifth graders & 12 fifths & 12 and a half
2
  = two & \text{two} & \text{Two} & \text{two apples}
  ! \text{three} & \text{two hundred} & \text{two thirds} & \text{two or three}
\frac23
  = two thirds & \text{two thirds}
  ! \text{two} & \text{three}
2516_8
  = 2516_{\text{eight}}
  ! 2516_{\text{nine}} & \text{eight}
\infty
  = \text{infinity} & infinity & +\infty
  ! -\infty & 8
""",
    "choices with their values": r"""
5
  = \text{(C) }5 & \textbf{(C)}\ 5
  ! \text{(C) }6 & \text{(C)} & (C)5
  ! \text{(A)}\text{(C)} 5 & \text{(A)}, \text{(C) } 5
C
  = \text{(C) }5 & \textbf{(C)}\ 5 & \text{(C) } 5, 6 & \text{(C) C}
  = \text{(C) } x=5 & \text{(C) The largest}
  ! \text{(D) }5 & (C)=5 & \text{(A)} C & \text{(A)} x=C & \text{(A)} C+x-x
  ! \text{(A)}\text{(B)}\text{(C)} & \text{(C)}\text{(B)} & \text{(C)} B
  ! \text{(C) 5 or (B) 6} & \text{(C) } 5, B & \text{(C)} \{A,B\} & \text{(B)(C)}
A
  = \text{(A) }5
  ! \text{(A)}\text{(B)}\text{(C)} & \text{(A)} C & \text{(A)} x=C & (A)(B)
""",
    "chains": r"""
\frac34
  = \frac34=0.75 & x=\frac{3}{4}=0.75 & \frac{3}{4} \approx 0.7
  ! \frac34=0.7 & 1=\frac34 & 0.75=0.7
x=5
  = x = 3+2 = 5 & 3+2 = x = 5 & x = y = 5 & x = \sqrt{25} = 5 & x = 5\text{ cm} = 5
  = x = \frac{-b}{2a} = 5 & x = 2+\dots+2 = 5 & x = a+1 = \frac{10}{2} = 5
  ! 2x=10 & x^2=25 & 5x=25 & 6=x=5 & x=4=5 & 5=x=6 & x=\sqrt{26}=5 & x=5=4=5
  ! x=4=5\text{ cm}
5
  = x \in \{5\}
  ! S \in 5 & 5 \in S & x \in 5 & 5 \in x & x \in 5 = y & x = y \in 5
50\%
  = p = 0.5 = 50\% & p = \frac{50}{100} = 50\%
  ! p = 50\% = 0.5 & p = 49\% = 50\%
60^\circ
  = \theta = \frac{\pi}{3} = 60^\circ & \angle A = 60^\circ
  ! \theta = 60^\circ = 61^\circ
(1,2)
  = P = (1,\frac42) = (1,2) & (x,y) = (a,b) = (1,2)
  ! P = (1,3) = (1,2)
2\sqrt3
  = x = \sqrt{12} = 2\sqrt{3} & x = 2\sqrt3 = \sqrt{12}
  ! x = \sqrt{13} = 2\sqrt{3}
x=5
  = x = \sqrt{25} = 5
  ! x = \sqrt{26} = 5
0.33
  = x=\frac13=0.33 & x = \frac26 = \frac13 = .33 & x=0.333=0.33
  ! x = 0.5 = 0.33 & x = \frac13 = 0.3 & x = 0.33 = \frac13 & x = -\frac13 = 0.33
  ! x = 0.336 = 0.33 & x = 0.5 = \frac13 = 0.33 & x = \sqrt2 = 0.33
1.41
  = x=\sqrt2=1.41 & x = \sqrt2 = 1.41\text{ cm}
  ! x = \sqrt3 = 1.41 & x = \sqrt2 = 1.4 & x = \sqrt2 = 1.414
-1.41
  = x = -\sqrt2 = -1.41
  ! x = \sqrt2 = -1.41
0.13
  = x = \frac18 = 0.13
  ! x = \frac18 = 0.12
5
  ! x = 4.6 = 5 & x = \sqrt{26} = 5 & x = 4.6 = 5.0
""",
    "functions": r"""
\frac{\pi}{2}-\arccos x
  = \arcsin x & \sin^{-1} x
  ! \arccos x & \frac{1}{\sin x}
(-1)^n
  = (-1)^{n+2}
  ! (-1)^{n+1} & 1 & -1
\binom{n}{2}
  = \frac{n(n-1)}{2} & {n \choose 2}
  ! \binom{n}{3} & \frac{n^2}{2}
\frac12+\frac{\sqrt3}{2}i
  = e^{i\pi/3} & \cos 60^\circ+i\sin 60^\circ
  ! e^{-i\pi/3} & \frac12+\frac{\sqrt3}{2}
f'(3)
  = f'(1+2)
  ! f'(1)+f'(2) & f(3)
e^{\pi\sqrt{163}}
  = (e^\pi)^{\sqrt{163}}
  ! 262537412640768744
\sin x
  = \cos(x-\frac{\pi}{2})
  ! \sin(x+\frac{1}{2004!}) & \sin x+10^{-99} & \sin y
(x-1)^2+y^2=4
  = x^2-2x+y^2-3=0 & y^2=4-(1-x)^2
  ! (x+1)^2+y^2=4 & (x-1)^2+y^2=2 & x^2-2x+y^2=4
""",
    "lists": r"""
3,4
  = 3 and 4 & 4 or 3 & 3\text{ and }4 & {3,4} & \{4,3\} & 3;4 & x=3 \text{ or } x=4
  = x_1=3, x_2=4
  ! 3 & (3,4) & 3,4,4 & 3,5 & 34 & 3 or more
1 \pm \sqrt{19}
  = 1+\sqrt{19}, 1-\sqrt{19} & x = 1 \pm \sqrt{19}
  ! 1+\sqrt{19} & \pm 1+\sqrt{19}
\{1\pm\sqrt{5},-2\}
  = -2, 1-\sqrt5, 1+\sqrt5
  ! 1\pm\sqrt5
p=5,q=2
  = (5,2) & q=2,p=5 & 5,2
  ! 2,5 & p=2,q=5
(1,2),(3,4)
  = (3,4),(1,2) & (3,4) and (1,2) & (1;2),(3;4)
  ! (1,3),(2,4) & (2,1),(3,4)
""",
    "sets": r"""
(-\infty,2)\cup(3,\infty)
  = x<2 or x>3 & x<2\text{ or }x>3 & 3<x \text{ or } 2>x
  = x\in(3,\infty)\cup(-\infty,2) & \mathbb{R}\setminus[2,3]
  ! x<2 and x>3 & x\le2 or x>3 & x<3 & (-\infty,2)
(2,5)
  = 2<x<5 & 5>x>2 & x>2 \text{ and } x<5 & \{x : 2<x<5\}
  ! 2\le x<5 & 2<x & x>2 or x<5
[-2,7]
  = -2\le x\le 7 & x\in[-2,7] & -2 \leqslant x \leqslant 7
  ! (-2,7) & -2<x\le7
(-2,2)
  = |x|<2 & x^2<4
  ! |x|\le2 & |x|>2
(5,\infty)
  = x>5 & 5<x & -x<-5
  ! x\ge5 & x<5
x>5
  = (5,\infty)
  ! y>5 & 5>x
\mathbb{R}
  = (-\infty,\infty) & \text{all real numbers} & x\in\mathbb{R}
  ! (0,\infty) & \mathbb{Q}
\emptyset
  = \varnothing & \{\}
  ! 0 & \{0\}
(-\infty,1)\cup(2,\infty)
  = (-\infty,1) \text{ or } (2,\infty) & x<1, x>2 & \{x : x<1 \text{ or } x>2\}
  = \mathbb{R} - [1,2] & \{x \in \mathbb{R} \mid x<1 \text{ or } x>2\}
  ! \{(-\infty,1)\} & x>1
[0,2]
  = [0,1]\cup[1,2]
  ! [0,1]\cup(1,2) & \{0,2\}
(-\infty,3)\cup(3,\infty)
  = x\ne3 & x \neq 3 & \mathbb{R}\setminus\{3\}
  ! x=3 & \mathbb{R}
""",
    "complex numbers": r"""
2i
  = (1+i)^2 & 2\mathrm{i} & \sqrt{-4}
  ! -2i & 2 & 2j
1+2i
  = i(2-i) & 2i+1
  ! 1-2i & 3
-1
  = i^2 & e^{i\pi}
  ! i & 1
""",
    "spellings of numbers": r"""
\frac13
  = 0.\overline{3} & 0.\bar{3} & .\overline{33}
  ! 0.3 & 0.333333333333 & 0.\overline{03}
\frac16
  = .1\overline{6} & 0.1\overline{6}
  ! 0.\overline{16} & 0.16
\frac{41}{333}
  = 0.\overline{123}
  ! 0.123
10
  = \binom52 & \binom{5}{2} & \dbinom{5}{3}
  ! \frac52 & \binom{5}{1}
\frac{\pi}{2}
  = pi/2 & \pi/2 & 0.5\pi & π/2
  ! 2pi & p/2 & \frac{\pi}{4}
-2\pi
  = -2*pi & -2\cdot\pi
  ! 2*pi
73
  = **73** & +73 & 73.00 & \frac{73}{1}
  ! 7^3 & 37
\ln 2
  = \log_e 2 & \frac12\ln 4
  ! \log 2 & \log_2 e
\sqrt[3]{2}
  = 2^{1/3} & 2^{\frac13}
  ! \sqrt{2} & 3\sqrt2
8
  = 2**3 & 2^3 & \\frac{16}{2}
  ! 2*3 & 23
""",
    "algebra": r"""
x^2-1
  = (x-1)(x+1)
  ! (x-1)^2 & x^2-1+10^{-30} & y^2-1
\sin(90^\circ-x)
  = \cos x & \cos(x)
  ! \sin(90-x) & -\cos x
1-\cos^2 x
  = \sin^2 x & \sin(x)^2
  ! \sin x^2
|x|
  = \sqrt{x^2}
  ! x & -x
60x\sqrt{x}
  = 60x^{3/2} & 60\sqrt{x}^3
  ! 60x & 60x^{2/3}
\frac{v_0}{r_0} \frac{1}{(1+r/r_0)^{3/2}}
  = \frac{v_0 (\frac{r_0}{r+r_0})^{0.5}}{r+r_0}
  ! \frac{v_0}{r+r_0}
n!
  = n (n-1)!
  ! (n-1)! & n^2
f(x)+1
  = 1+f(x)
  ! f(y)+1 & f(x+1)
f(3)
  = f(1+2)
  ! f(1)+f(2) & 3f
2k+2
  = 2(k+1)
  ! 2K+2 & 2k+1
O(\log n)
  = O(\log n)
  ! \Theta(\log n)
\sum_{k=1}^4 k
  = 10
  ! 9
\lfloor \pi \rfloor
  = 3
  ! 4
""",
    "far away and whole": r"""
10-x
  = -(x-10) & 10-\sqrt[3]{x^3}
  ! |x-10| & \max(10-x,0)
x+10
  ! |x+10| & \max(x+10,-10^{12})
|x-1000|
  = |1000-x|
  ! 1000-x & x-1000
100
  ! \max(x,100)
0
  ! \lfloor x^2/100\rfloor & \lfloor\frac{x^2}{10^{50}}\rfloor
x+y
  = y+\sqrt[3]{x^3} & \max(x,y)+\min(x,y)
  ! |x+y| & \max(x+y,-300)
3
  = \min(x+3,3)+\max(0,-x)
  ! \min(x+300,3)
\sin x
  = \sin(x+100\pi)
  ! \sin(x+100)
2^{x^5}
  = 2^{x^4 \cdot x}
  ! 2^{x^6}
x^x
  = e^{x\ln x}
  ! e^{x}
e^{-x}
  = \cosh x-\sinh x
  ! \cosh x-\sinh x+10^{-99}
1
  ! \gcd(n,6) & \gcd(n,7)
\gcd(n,6)
  = \gcd(6,n) & \gcd(2n,12)/2
  ! \gcd(n,12) & \gcd(n,3) & 6
6
  = \gcd(12,18) & \lcm(2,3) & \gcd(12,18,30)
  ! \gcd(12,16) & \gcd(6\sqrt2,6)
xy
  = \gcd(x,y)\lcm(x,y)
  ! \lcm(x,y)
""",
    "sums and products of matrices": r"""
\begin{pmatrix}19&22\\43&50\end{pmatrix}
  = \begin{pmatrix}1&2\\3&4\end{pmatrix}\begin{pmatrix}5&6\\7&8\end{pmatrix}
  ! \begin{pmatrix}5&6\\7&8\end{pmatrix}\begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{pmatrix}6&8\\10&12\end{pmatrix}
  = \begin{pmatrix}1&2\\3&4\end{pmatrix}+\begin{pmatrix}5&6\\7&8\end{pmatrix}
  ! \begin{pmatrix}1&2\\3&4\end{pmatrix}
-2
  = \begin{vmatrix}1&2\\3&4\end{vmatrix}
  ! \begin{pmatrix}1&2\\3&4\end{pmatrix}
""",
}


def pairs(sign: str) -> list:
    """(gold, answer) of all kinds. The & between answers has a space on each side."""
    found = []
    for kind, lines in KINDS.items():
        gold = ""
        for line in lines.strip().splitlines():
            if not line.startswith("  "):
                gold = line
            elif line[2] == sign:
                for answer in line[4:].split(" & "):
                    name = f"{kind}: {gold} | {answer}"
                    found.append(pytest.param(gold, answer, id=name))
    return found


@pytest.mark.parametrize(("gold", "answer"), pairs("="))
def test_right(gold, answer):
    assert grading.grade(gold, rf"So it is \boxed{{{answer}}}.") is Grade.CORRECT


@pytest.mark.parametrize(("gold", "answer"), pairs("!"))
def test_wrong(gold, answer):
    grade = grading.grade(gold, rf"So it is \boxed{{{answer}}}.")
    assert grade in (Grade.WRONG, Grade.UNPARSED)
